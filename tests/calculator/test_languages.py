"""The page in English and Chinese."""

import re

from grpo.reports.calculator_server import PAGE
from grpo.tasks.answer_format import DEFAULT_FORMAT
from tests.helpers.calculator import EXAMPLES, KINDS, reasons, totals
from tests.helpers.random_completions import many_completions


def test_languages(open_page) -> None:
    page = open_page()
    assert page.evaluate("document.documentElement.lang") == "en" and page.title() == "Reward calculator · grpo"
    page.get_by_role("button", name="中文").click()
    assert page.evaluate("document.documentElement.lang") == "zh-CN" and page.title() == "奖励计算器 · grpo"
    assert page.locator("h1").inner_text() == "奖励计算器"
    assert reasons(page, "strict_format")[0] == "与格式完全一致；</answer> 后没有换行：允许"
    page.reload()
    assert page.locator("h1").inner_text() == "奖励计算器"  # remembered
    page.goto(f"{PAGE.as_uri()}?lang=en")
    assert page.locator("h1").inner_text() == "Reward calculator"
    assert open_page("?lang=zh").locator("h1").inner_text() == "奖励计算器"
    assert open_page(locale="zh-CN").locator("h1").inner_text() == "奖励计算器"
    assert open_page("?lang=fr").locator("h1").inner_text() == "Reward calculator"


def test_the_button_overrides_the_language_of_the_address(open_page) -> None:
    page = open_page("?lang=zh")
    page.get_by_role("button", name="English").click()
    page.reload()
    assert page.locator("h1").inner_text() == "Reward calculator"


def test_without_storage(browser) -> None:
    context = browser.new_context(locale="en-US")
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(PAGE.as_uri())
    page.get_by_role("button", name="中文").click()
    assert page.locator("h1").inner_text() == "奖励计算器" and totals(page)[0] == 4.0 and not errors
    context.close()


# Names that are the same in every language.
NAMES_KEPT = "|".join(
    [
        r"grpo(?:/\w+)+(?:\.py)?",
        "grpo",
        *KINDS,
        r"(?:strict|soft)_\n?format",
        "default",
        "verbatim",
        r"str\.isdigit",
        *DEFAULT_FORMAT.tags,
        r"\\boxed\{\}",
    ]
    + [
        "TRL",
        "Python",
        "JSONL?",
        "ASCII",
        "Parquet",
        "MB",
        "English",
        '"completion"',
        '"completion"',
        '"gold"',
        "“completion”",
        "“gold”",
    ]
)


def test_every_string_in_both_languages(open_page) -> None:
    page = open_page("?lang=zh")
    said = page.evaluate(
        """() => {
          const any = { answer: "18", gold: "18", tag: "<answer>", other: "</reasoning>", after: "</answer>", boxes: 2, times: 2, tags: 3, charged: 12, toString: () => "7", toLocaleString: () => "7" };
          return Object.entries(STRINGS).map(([key, both]) => [key, both.map((text, i) => {
            language = i;
            return typeof text === "function" ? text(any, any, any) : text;
          })]);
        }"""
    )
    assert len(said) > 100
    same = {"stack_default", "stack_verbatim", "format_boxed"}
    han = "[\u3400-\u9fff]"
    for key, (english, chinese) in said:
        assert english and chinese and (english != chinese or key in same), key
        assert not re.search("undefined|NaN|object", english + chinese), key
        assert key == "other_language" or not re.search(f"{han}|[，。；：（）、]", english), key
        if key in same or key in ("other_language", "parquet"):
            continue
        # Full-width punctuation, a space between Chinese and Latin or digits, and no English word.
        assert re.search(f"{han}|[，。；：、]", chinese), key
        assert not re.search(
            f"{han}[,;:!?()]|[,;:!?()]{han}|{han}[A-Za-z0-9<]|[A-Za-z0-9>%]{han}| [，。；：]|[，。；：] ", chinese
        ), chinese
        assert not re.search("[A-Za-z]{2,}", re.sub(NAMES_KEPT, "", chinese)), chinese
    # Every reason that a reward can give is among them.
    given = page.evaluate(
        "cases => [0, 1].map((of) => { language = of; return cases.map((each) => Object.values(REWARDS).map(([reward]) => reason(reward(...each)))); })",
        [list(case) for case in many_completions()[:3000]],
    )
    assert not any("undefined" in text for rows in given for row in rows for text in row)


def test_the_chinese_page_has_no_english(open_page) -> None:
    page = open_page("?lang=zh")
    for tab, examples in (("one", EXAMPLES), ("group", ["mixed", "trap", "right", "wrong"])):
        page.locator(f"#tab-{tab}").click()
        for name in examples:
            page.locator(f"[data-t=eg_{name}]").click()
            text = page.evaluate(
                "() => { document.querySelectorAll('.mirror, #question').forEach((each) => (each.hidden = true)); return document.body.innerText; }"
            )
            left = re.sub(r"“[^”]*”", "", re.sub(NAMES_KEPT, "", text))
            assert not re.search("[A-Za-z]{2,}", left), re.findall("[A-Za-z ]{2,}", left)
        labels = page.evaluate("[...document.querySelectorAll('[aria-label]')].map((each) => each.ariaLabel)")
        assert all(re.search("[\u3400-\u9fff]", label) for label in labels), labels
