r"""Markup around an answer that does not change it: Markdown, HTML, the delimiters of LaTeX, `\boxed{}`.

Called by the answer types that read expressions. It does not know what an expression is.
"""

import re

from grpo.tasks.answer_format import find_boxes

_PAIRS = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"([*_]{1,3}|`{1,3})(?P<inner>(?:(?!\1).)+)\1",
        r"<(b|i|em|strong|u|code)>(?P<inner>.*)</\1>",
        r"(\${1,2})(?P<inner>[^$]+)\1",
        r"\\\((?P<inner>.*)\\\)",
        r"\\\[(?P<inner>.*)\\\]",
    )
]
_END = re.compile(r"[.;\u3002]$")  # of a sentence


def unwrapped(text: str) -> str:
    """`text` without the markup around all of it, and without the full stop or semicolon at its end."""
    before = None
    while text != before:
        before, text = text, _END.sub("", text.strip()).strip()
        boxes = find_boxes(text)
        if boxes and (boxes[0].start, boxes[0].end) == (0, len(text)):
            text = text[boxes[0].content_start : boxes[0].content_end]
        for pair in _PAIRS:
            if match := pair.fullmatch(text):
                text = match["inner"]
    return text
