"""Texts compared as answers: without case, runs of white space, surrounding punctuation, brackets and markup.

Called by the answer types and by the reader of options. The calculator page (grpo/assets/calculator.html) has the same
rules. It knows nothing of completions and problems.
"""

import re
import unicodedata

# Characters that are stripped around an answer: white space, punctuation, quotes, brackets, Markdown, LaTeX's `$`.
# Not `+-<>#%=`, which distinguish answers, and not a point before a text, which may be a decimal point.
_AFTER = "".join(filter(str.isspace, map(chr, range(0x3001)))) + (
    ".,;:!?'\"`*_$\\()[]{}"
    "\u2018\u2019\u201c\u201d\u00ab\u00bb\u2026\u3002\uff0c\u3001\uff01\uff1f\uff1a\uff1b\uff08\uff09\u3010\u3011\u300c\u300d"
)
_BEFORE = _AFTER.replace(".", "")
_LATEX_TEXT = re.compile(r"\\(?:boxed|text[a-z]*|math[a-z]*)(?=\s*\{)")


def normalized_text(text: str) -> str:
    """`text` in lower case, without surrounding punctuation, brackets and Markdown, and LaTeX's \\boxed and \\text.

    Runs of white space are one space, and a letter with an accent is one character (Unicode's form NFC).
    """
    plain = unicodedata.normalize("NFC", _LATEX_TEXT.sub("", text)).replace("\u2212", "-")
    return " ".join(plain.lstrip(_BEFORE).rstrip(_AFTER).lower().split())


def same_text(answer: str, reference: str) -> bool:
    """Whether two texts are equal, ignoring case, runs of white space, and surrounding punctuation and brackets."""
    text = normalized_text(reference)
    return answer.strip() == reference.strip() or (text != "" and normalized_text(answer) == text)
