"""The answer formats of conf/format: prompt, perfect completion, near misses and extraction, each from the settings."""

from functools import cache

import pytest

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.core.metric_names import ACCURACY_STRICT
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import rewards_of
from grpo.tasks.answer_format import AnswerFormat, BoxedFormat, TagFormat, answer_format_of, find_boxes, last_boxed
from grpo.tasks.answer_types import ANSWER_TYPES, accuracy_labels
from grpo.tasks.example import Example

TAGS_PROMPT = "Respond in the following format:\n<{0}>\n...\n</{0}>\n<{1}>\n...\n</{1}>\n"
BOXED_PROMPT = "Reason step by step, and put your final answer within \\boxed{}.\n"
FORMATS: dict[str, tuple[list[str], AnswerFormat, str]] = {
    "default": ([], TagFormat(), TAGS_PROMPT.format("reasoning", "answer")),
    "think": (["format.reasoning=think"], TagFormat("think", "answer"), TAGS_PROMPT.format("think", "answer")),
    "solution": (["format.answer=solution"], TagFormat(answer="solution"), TAGS_PROMPT.format("reasoning", "solution")),
    "boxed": (["format=boxed"], BoxedFormat(), BOXED_PROMPT),
}


config_in = cache(lambda name: compose(FORMATS[name][0]))


def scores(name: str, *completions: str) -> list[list[float]]:
    """The scores of completions of a problem whose answer is 18, by the rewards of the default stack, in its order."""
    stack = rewards_of(config_in(name))
    batch = ScoringBatch(completions, [Example("How many?", "18")] * len(completions))
    return [list(row) for row in zip(*stack.score(batch).values(), strict=True)]


@pytest.mark.parametrize("name", FORMATS)
def test_prompt_and_perfect_completion(name: str) -> None:
    _, expected, prompt = FORMATS[name]
    config = config_in(name)
    answer_format = answer_format_of(config.format)
    assert (answer_format, config.system_prompt) == (expected, prompt)
    perfect = answer_format.render("3 * 6 = 18", "18")
    assert all(tag in perfect for tag in answer_format.tags)
    assert answer_format.extract_answer(perfect) == "18"
    assert scores(name, perfect, perfect.removesuffix("\n")) == [[2.0, 0.5, 0.5, 0.5, 0.5]] * 2
    # The setting, as messages and reports name it, selects the format.
    assert answer_format_of(compose(answer_format.setting.split()).format) == answer_format
    # A completion in another format is not right, and gets nothing for its answer.
    for other, (_, other_format, _) in FORMATS.items():
        if other != name:
            total = scores(name, other_format.render("3 * 6 = 18", "18"))[0]
            assert sum(total[1:]) < 2 and (total[0] == 0 or other == "think" or name == "think"), other


@pytest.mark.parametrize("name", ["default", "think", "solution"])
@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("{r}\n3 * 6\n{/r}\n{a}\n17\n{/a}\n", [0.0, 0.5, 0.5, 0.5, 0.5]),
        ("{r}\n3 * 6\n{/r}\n{a}\n18 pens\n{/a}\n", [2.0, 0.0, 0.5, 0.5, 0.5]),
        ("{r}3 * 6{/r} {a}18{/a}", [2.0, 0.5, 0.0, 0.5, 0.0]),
        ("{r}\n\n{/r}\n{a}\n18\n{/a}\n", [2.0, 0.5, 0.0, 0.0, 0.5]),
        ("{r}\n3 * 6\n{/r}\n{a}\n18\n{/a}\nDone.", [2.0, 0.5, 0.0, 0.5, 0.495]),
        ("{r}\n3 * 6\n{/r}\n{a}\n18", [0.0, 0.0, 0.0, 0.0, 0.375]),
        ("18", [0.0] * 5),
    ],
)
def test_near_misses_of_tags(name: str, completion: str, expected: list[float]) -> None:
    for mark, tag in zip(("{r}", "{/r}", "{a}", "{/a}"), FORMATS[name][1].tags, strict=True):
        completion = completion.replace(mark, tag)
    assert scores(name, completion) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        # The answer is the last closed box; braces inside it are balanced.
        ("3 * 6 is \\boxed{18}", [2.0, 0.5, 0.5, 0.5, 0.5]),
        ("3 * 6 is $\\boxed{18}$.\n", [2.0, 0.5, 0.5, 0.5, 0.497]),
        ("3 * 6 is \\[ \\boxed {\\text{18 pens}} \\]", [2.0, 0.0, 0.5, 0.5, 0.497]),
        ("3 * 6 is \\boxed{17}", [0.0, 0.5, 0.5, 0.5, 0.5]),
        # Two boxes: the last counts, and the format is not exact.
        ("So \\boxed{17}, no, \\boxed{18}", [2.0, 0.5, 0.0, 0.5, 0.0]),
        ("So \\boxed{18}, no, \\boxed{17}", [0.0, 0.5, 0.0, 0.5, 0.0]),
        # A box that is not closed is none.
        ("So \\boxed{18} and \\boxed{17", [2.0, 0.5, 0.0, 0.5, 0.486]),
        ("So \\boxed{18", [0.0] * 5),
        # No reasoning, no answer, text after the box.
        ("\\boxed{18}", [2.0, 0.5, 0.0, 0.0, 0.5]),
        ("$$\\boxed{18}$$", [2.0, 0.5, 0.0, 0.0, 0.498]),
        ("\\boxed{18} as 3 * 6 is 18", [2.0, 0.5, 0.0, 0.0, 0.485]),
        ("\\boxed{1} \\boxed{18}", [2.0, 0.5, 0.0, 0.0, 0.0]),
        # Tags alone, such as those that a chat template opens, are no reasoning.
        ("<think>\n\\boxed{18}", [2.0, 0.5, 0.0, 0.0, 0.5]),
        ("<think>\n</think>\n\\boxed{18}", [2.0, 0.5, 0.0, 0.0, 0.5]),
        ("<think>\n3 * 6\n</think>\n\\boxed{18}", [2.0, 0.5, 0.5, 0.5, 0.5]),
        ("3 * 6 is \\boxed{ }", [0.0, 0.0, 0.0, 0.0, 0.5]),
        ("3 * 6 is \\boxed{18}\n" + 600 * "x", [2.0, 0.5, 0.0, 0.5, 0.0]),
        ("18", [0.0] * 5),
    ],
)
def test_near_misses_of_boxes(completion: str, expected: list[float]) -> None:
    assert scores("boxed", completion) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{\frac{1}{2}} and \boxed { 3 }", [r"\frac{1}{2}", "3"]),
        (r"\boxed{\boxed{5}}", [r"\boxed{5}", "5"]),
        (r"\boxed{1 \boxed{2}", ["2"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"} \boxed{a { b} c", []),
        ("", []),
    ],
)
def test_boxes(text: str, contents: list[str]) -> None:
    assert [text[box.content_start : box.content_end].strip() for box in find_boxes(text)] == contents
    assert last_boxed(text) == (contents[-1] if contents else None)


def test_boxes_take_linear_time() -> None:
    assert last_boxed(200_000 * r"\boxed{") is None
    assert last_boxed(100_000 * r"\boxed{" + "1" + 100_000 * "}") == "1"


@pytest.mark.parametrize(
    ("answer_type", "name", "completion", "answer", "anywhere", "label"),
    [
        ("number", "think", "<answer>5</answer> 6", "5", "6", "inside <answer>"),
        ("number", "solution", "<answer>5</answer>", None, "5", "inside <solution>"),
        ("text", "solution", "<solution>Paris", None, "Paris", "inside <solution>"),
        ("text", "boxed", "It is \\boxed{Paris}.", "Paris", "Paris", r"inside \boxed{}"),
        ("choice", "boxed", "So \\boxed{B} it is, not (A)", "B", "B", r"inside \boxed{}"),
        ("equation", "solution", "<solution>1 + 2</solution> 3 * 4", "1 + 2", "1 + 2", "inside <solution>"),
        ("reasoning_gym", "boxed", "\\boxed{x}\ny", "x", "x", r"inside \boxed{}"),
        ("math", "boxed", "\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "\\frac{1}{2}", r"inside \boxed{}"),
        ("math", "default", "<answer>\\boxed{2}</answer>", "2", "2", r"inside <answer> or \boxed{}"),
    ],
)
def test_types_of_answers_in_each_format(
    answer_type: str, name: str, completion: str, answer: str | None, anywhere: str, label: str
) -> None:
    kind = ANSWER_TYPES[answer_type].in_format(FORMATS[name][1])
    assert (kind.extract(completion), kind.extract_anywhere(completion)) == (answer, anywhere)
    assert accuracy_labels(kind, "correctness")[ACCURACY_STRICT] == f"right {label}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["format.reasoning=answer"],
            "format.reasoning=answer format.answer=answer: the two tags need different names.",
        ),
        (
            ["format.answer=a b"],
            "format.answer=a b: must be the name of a tag without brackets, as in think: letters A to Z, digits, _, . "
            "and -, a letter first, at most 40 characters, and not true or false.",
        ),
        (['format.reasoning="réason"'], "format.reasoning=réason: must be the name of a tag without brackets, "),
        (['format.reasoning="思考"'], "format.reasoning=思考: must be the name of a tag without brackets, "),
        (['format.reasoning="<think>"'], "format.reasoning=<think>: must be the name of a tag without brackets, "),
        (["format.reasoning=true"], "format.reasoning=True: must be the name of a tag without brackets, "),
        ([f"format.answer={41 * 'a'}"], f"format.answer={41 * 'a'}: must be the name of a tag without brackets, "),
        (["format.name=boxed"], "format.name=boxed: set format=boxed instead, without format.reasoning and format.ans"),
        (["format.answer=null"], "format.answer=null: format=tags needs the name of a tag there."),
        (
            ["format=boxed", "format.answer=x"],
            "format.answer=x: format=boxed has no tags; leave it out, and choose the ",
        ),
        (["format=box"], "format=box: format has no option 'box'. Did you mean 'boxed'? Known: boxed, tags."),
    ],
)
def test_mistakes(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("overrides", [["format.reasoning=think"], ["format=boxed"]])
def test_the_copied_rewards_refuse_another_format(overrides: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"^format.*: the reward verbatim_correctness reads <reasoning> and <answer> only"
    ):
        rewards_of(compose([*overrides, "rewards=verbatim"]))
    # Measured with weight 0, they may be added to any stack.
    assert rewards_of(compose([*overrides, "+rewards.verbatim_int=0"]))
