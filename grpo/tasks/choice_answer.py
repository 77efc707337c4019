"""A choice as an answer: the letter of one of the options of a problem.

One of the types of grpo/tasks/answer_types.py, data.answer=choice. The options are in the row (grpo/tasks/options.py);
without them, the reference answer is a letter. This module knows no reward and no prompt.
"""

import re
from collections.abc import Hashable, Mapping
from typing import ClassVar

from grpo.core.errors import UserError
from grpo.tasks.answer_type import FormatFirstAnswer
from grpo.tasks.example import Example
from grpo.tasks.normalized_text import normalized_text
from grpo.tasks.options import letter_of_text, letters_by_reading, read_options

_MARKUP = re.compile(r"[*_`${}\"\u201c\u201d]|</?(?:b|i|em|strong|u|code)>|\\(?:boxed|text[a-z]*|math[a-z]*)(?=\s*\{)")
_SPACE = r"\s{0,9}"  # bounded: adjacent runs of white space would take quadratic time on a long text
_ANSWER_IS = rf"(?:answer|option|choice)(?:\s{{1,9}}is)?{_SPACE}:?{_SPACE}"
_LEAD = re.compile(rf"^(?:the\s{{1,9}})?(?:(?:correct|right|final)\s{{1,9}})?{_ANSWER_IS}", re.IGNORECASE)
_MARKS = r").:,;!\u3002\uff0c\u3001\uff1a\uff1b\uff01"
# A letter alone, in brackets, or before a mark or a dash and the text of the option.
_CHOICE = re.compile(
    rf"(?:[(\[]\s*([A-Z])\s*[)\]]|([A-Z])(?=\s*(?:$|[{_MARKS}])|\s+[-\u2013\u2014]\s))[{_MARKS}\-\u2013\u2014\s]*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_CHOICE_AT_END = re.compile(rf"(.+)\(([A-Z])\)[{_MARKS}]?", re.DOTALL)  # after the text of the option
_OTHER_LETTER = re.compile(
    r"(?<![A-Za-z])(?:\([A-Z]\)|[A-Z][).:](?=\s|$))|^[A-Z](?:\W?$|\s*[,;!/&+])|\b(?:and|or)\s\(?[A-Z]\W?$"
)
# In any format: a capital letter in brackets or asterisks, before `)`, after "answer is", or alone on its line.
_ANYWHERE = re.compile(
    rf"[(\[{{*]([A-Z])[)\]}}*]|(?:^|(?<=\s))([A-Z])(?=\))|(?i:\b{_ANSWER_IS})([A-Z])(?![A-Za-z'])"
    r"|^[ \t]*([A-Z])[.:]?[ \t]*$",
    re.MULTILINE,
)


class ChoiceAnswer(FormatFirstAnswer):
    """The letter of the right option: `B`, `(B)`, `B.`, `B) 8` or `**B**`, or the text of that option.

    `B) 8` is wrong if 8 is the text of another option, and so is an answer that names several letters.
    """

    name: ClassVar[str] = "choice"
    rule: ClassVar[str] = "is the letter of the right option, with or without its text"
    anywhere: ClassVar[str] = "the answer block, else the last letter of an option anywhere"
    anywhere_label: ClassVar[str] = "last letter of an option"

    def find_answer(self, completion: str) -> str | None:
        letters = [next(filter(None, match.groups())) for match in _ANYWHERE.finditer(completion)]
        return letters[-1] if letters else None

    def matches(self, answer: str, example: Example) -> bool:
        options = read_options(example.columns) or {}
        return chosen_letter(answer, options) == _reference_letter(example)

    def voting_key(self, answer: str) -> Hashable:
        return chosen_letter(answer, {}) or normalized_text(answer)

    def check_reference(self, example: Example) -> None:
        super().check_reference(example)
        if read_options(example.columns) is not None:
            letters_by_reading(example.gold, example.columns)
        elif chosen_letter(example.gold, {}) is None:
            raise UserError(
                f"the reference answer {example.gold!r} is not a letter; options are read from a column 'choices' or "
                "'options'."
            )


def chosen_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer chooses, in upper case; None if it chooses none or several."""
    text = _LEAD.sub("", _MARKUP.sub("", answer).strip())
    if (match := _CHOICE_AT_END.fullmatch(text)) and match[2] == letter_of_text(match[1], options):
        return match[2]
    if (match := _CHOICE.fullmatch(text)) is None:
        return letter_of_text(answer, options)
    letter, rest = (match[1] or match[2]).upper(), match[3].strip()
    named = letter_of_text(rest, options)  # an option's own text may contain letters
    if named not in (None, letter) or (named is None and _OTHER_LETTER.search(rest)):
        return None
    return letter if not options or letter in options else None


def _reference_letter(example: Example) -> str | None:
    """The letter of the right option: datasets have it as the reference answer, files of completions may not."""
    if read_options(example.columns) is None:
        return chosen_letter(example.gold, {})
    try:
        return next(iter(letters_by_reading(example.gold, example.columns).values()))
    except UserError:
        return None
