"""The reward calculator in a browser: what a person does on the page, what it shows, and the same scores by Python."""

import json
import time
from typing import Any

from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat, BoxedFormat, TagFormat
from tests.helpers.scoring import score

KINDS = ["correctness", "int", "strict_format", "soft_format", "xmlcount"]
NAMES = KINDS + [f"verbatim_{kind}" for kind in KINDS]
Case = tuple[str, str]  # completion and gold


# The formats that the tests compare: as the page's state has them, and as grpo/tasks/answer_format.py does.
FORMATS = {
    "default": ({"name": "tags", "reasoning": "reasoning", "answer": "answer"}, DEFAULT_FORMAT),
    "other tags": ({"name": "tags", "reasoning": "think", "answer": "s.1-x"}, TagFormat("think", "s.1-x")),
    "boxed": ({"name": "boxed", "reasoning": "reasoning", "answer": "answer"}, BoxedFormat()),
}


def by_python(cases: list[Case], answer_format: AnswerFormat = DEFAULT_FORMAT) -> list[list[float]]:
    """The scores of grpo/rewards for each case, in the order of NAMES."""
    texts, golds = [text for text, _ in cases], [gold for _, gold in cases]
    scores = [score(name, texts, golds, answer_format=answer_format) for name in NAMES]
    return [list(row) for row in zip(*scores, strict=True)]


def by_page(page, cases: list[Case], named: str = "default") -> list[list[float]]:
    script = "(cases) => cases.map((each) => names.map((name) => REWARDS[name][0](...each, format_of(named)).value))"
    return ask(page, script, cases, names=NAMES, named=FORMATS[named][0])


def ask(page, function: str, of: Any, **constants: Any) -> Any:
    """The result of a function of the page; as JSON, which preserves every text and every float."""
    named = "".join(f"const {name} = {json.dumps(value)};" for name, value in constants.items())
    return json.loads(
        page.evaluate(f"(text) => {{ {named} return JSON.stringify(({function})(JSON.parse(text))); }}", json.dumps(of))
    )


def differences(cases: list[Case], expected: list[list[float]], found: list[list[float]]) -> list[str]:
    """The first few differences; floats are compared by `repr`, which is unique for each float."""
    assert len(cases) == len(expected) == len(found)
    return [
        f"{name}: {ours!r} here, {theirs!r} on the page, of {case!r}"
        for case, row, other in zip(cases, expected, found, strict=True)
        for name, ours, theirs in zip(NAMES, row, other, strict=True)
        if repr(float(ours)) != repr(float(theirs))
    ][:5]


def typed(page, selector: str, text: str) -> None:
    """Type key by key, as a person does."""
    page.locator(selector).fill("")
    page.locator(selector).press_sequentially(text)


def fill(page, selector: str, text: str) -> None:
    """As `Locator.fill`, but also for lone surrogates, which it cannot send to the browser."""
    script = """([selector, text]) => {
      const field = document.querySelector(selector);
      field.value = JSON.parse(text);
      field.dispatchEvent(new Event("input"));
    }"""
    page.evaluate(script, [selector, json.dumps(text)])


def totals(page) -> list[float]:
    return [float(cell.get_attribute("data-value")) for cell in page.locator("#scores tfoot b").all()]


def reasons(page, kind: str) -> list[str]:
    return page.locator(f"#scores .{kind} td small").all_inner_texts()


def advantages(page) -> list[float]:
    return [float(cell.get_attribute("data-value")) for cell in page.locator("#panels .panel td:last-child").all()]


def verdicts(page) -> list[str]:
    return page.locator("#panels .verdict").all_inner_texts()


def paused(page) -> None:
    """Do what the page does when typing pauses: update the address bar."""
    page.evaluate("write_link()")


def until(page, holds: str) -> None:
    """Wait until a JavaScript expression is true (Playwright's own function uses eval, which the page forbids)."""
    end = time.monotonic() + 10
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        time.sleep(0.02)


# example -> the totals of both stacks, and the gold answer
EXAMPLES = {
    "bare": (0.0, 2.5, "18"),
    "perfect": (4.0, 3.5, "18"),
    "unbroken": (4.0, 2.5 + 0.389, "18"),
    "two": (2.0 + 0.5 + 0.5, None, "18"),
    "chinese": (4.0, 3.0, "18"),
    "chatter": (3.5 - 0.063, None, "18"),
    "comma": (4.0, 1.5, "1,080"),
}


# Drops a file with a name and a text onto the page.
DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name));
  for (const type of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
