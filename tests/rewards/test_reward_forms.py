"""The functions that are rewards: own forms and TRL's, what they receive, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.core.metric_names import is_metric_of_run
from grpo.evaluation.completion import Completion
from grpo.evaluation.difference import paired_differences
from grpo.evaluation.evaluation import Evaluation
from grpo.evaluation.storage import load_evaluation
from grpo.rewards.execution import ExecutionSettings
from grpo.rewards.registry import REWARDS
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack, build_rewards, rewards_of
from grpo.tasks.example import Example
from grpo.training.completion_log import storable

ROWS = (
    Example("1 + 1?", "2", columns={"task": "math", "ground_truth": "2", "level": 1, "prompt": "raw"}),
    Example("Capital of Peru?", "Lima", columns={"task": "facts", "ground_truth": "Lima", "level": 3, "prompt": "raw"}),
)
TEXTS = ("<think>1 + 1</think>2", "it is Lima")
KNOWN = {"completion_ids": [[5, 6, 7], [8]], "completion_tokens": [3, 1], "truncated": [False, True]}
BATCH = ScoringBatch(TEXTS, ROWS, **KNOWN, step=3, max_steps=4)
NAN = pytest.approx(float("nan"), nan_ok=True)
FROM_TRL = "Written for TRL: "

# (what, the function `mine`, its scores of TEXTS)
FORMS: list[tuple[str, str, list[Any]]] = [
    ("one completion", "def mine(completion): return len(completion)", [21, 10]),
    ("the reference answer", "def mine(completion, gold): return gold in completion", [1, 1]),
    ("the question alone", "def mine(question): return len(question)", [6, 16]),
    ("the problem", "def mine(completion, example): return example.gold in completion", [1, 1]),
    ("a column", "def mine(completion, level): return level", [1, 3]),
    ("two columns", "def mine(completion, task, ground_truth): return len(task + ground_truth)", [5, 9]),
    ("a column of the prompt as the data has it", "def mine(completion, prompt): return prompt == 'raw'", [1, 1]),
    ("tokens", "def mine(completion_tokens): return -completion_tokens", [-3, -1]),
    ("truncation", "def mine(completion, truncated): return -truncated", [0, -1]),
    ("progress", "def mine(completion, step, max_steps): return step / max_steps", [0.75, 0.75]),
    ("the answer type", "def mine(completion, answer_type): return len(answer_type.name)", [6, 6]),
    ("a default", "def mine(completion, limit=15): return len(completion) > limit", [1, 0]),
    ("a default that a column replaces", "def mine(completion, level=9): return level", [1, 3]),
    ("an annotation that is no type", "def mine(completion, level: ['any'] = 9): return level", [1, 3]),
    ("a keyword parameter", "def mine(completion, *, level): return level", [1, 3]),
    ("an abstention", "def mine(completion, task): return 1.0 if task == 'math' else None", [1, NAN]),
    ("messages by annotation", "def mine(completion: list[dict]): return len(completion[0]['content'])", [21, 10]),
    ("messages by decorator", "@reward(messages=True)\ndef mine(completion): return len(completion[0])", [2, 2]),
    ("a batch", "def mine(completions): return [len(text) for text in completions]", [21, 10]),
    (
        "a batch with answers",
        "def mine(completions, golds): return [g in c for c, g in zip(completions, golds)]",
        [1, 1],
    ),
    ("a batch with a column", "def mine(completions, level): return level", [1, 3]),
    ("a batch of questions", "def mine(questions, examples): return [len(questions), len(examples)]", [2, 2]),
    (
        "a batch with tokens",
        "def mine(completions, completion_tokens, step): return [step, *completion_tokens[1:]]",
        [3, 1],
    ),
    ("a batch with abstentions", "def mine(completions): return [None, 2]", [NAN, 2]),
    (
        "a batch of messages",
        "def mine(completions: list[list[dict[str, str]]]): return [len(c[0]['content']) for c in completions]",
        [21, 10],
    ),
    # After the examples of TRL's documentation.
    (
        FROM_TRL + "token counts",
        "def mine(completion_ids, **kwargs): return [float(len(ids)) for ids in completion_ids]",
        [3, 1],
    ),
    (
        FROM_TRL + "characters of texts",
        "def mine(completions: list[str], **kwargs): return [float(len(text)) for text in completions]",
        [21, 10],
    ),
    (
        FROM_TRL + "a format in messages",
        "import re\n@reward\ndef mine(completions, **kwargs):\n"
        "    texts = [messages[0]['content'] for messages in completions]\n"
        "    return [1.0 if re.match('<think>.*?</think>', text) else 0.0 for text in texts]",
        [1, 0],
    ),
    (
        FROM_TRL + "a reference column",
        "@reward(messages=False)\ndef mine(completions, ground_truth, **kwargs):\n"
        "    return [float(truth in text) for text, truth in zip(completions, ground_truth)]",
        [1, 1],
    ),
    (
        FROM_TRL + "one task of several",
        "def mine(prompts, completions, task, **kwargs):\n"
        "    return [1.0 if kind == 'math' else None for _, _, kind in zip(prompts, completions, task)]",
        [1, NAN],
    ),
    (
        FROM_TRL + "progress of training",
        "def mine(completions, trainer_state, **kwargs):\n"
        "    return [trainer_state.global_step / trainer_state.max_steps] * len(completions)",
        [1, 1],
    ),
    (
        FROM_TRL + "metrics and columns",
        "def mine(completions, log_metric=None, log_extra=None, **kwargs):\n"
        "    log_extra('length', [1, 2])\n    log_metric('mean_length', 1.5)\n    return [0.0] * len(completions)",
        [0, 0],
    ),
    (
        FROM_TRL + "all by **kwargs",
        "def mine(**kwargs): return [len(kwargs), 'level' in kwargs and 'prompt' not in kwargs]",
        [9, 1],
    ),
    (
        FROM_TRL + "prompts as messages",
        "def mine(prompts, **kwargs): return [m['role'] == 'system' for m in prompts[0]]",
        [1, 0],
    ),
    (FROM_TRL + "no **kwargs", "def mine(prompts, completions, level): return level", [1, 3]),
]


def write(folder: Path, source: str) -> str:
    file = folder / "mine.py"
    decorator = "" if "@reward" in source or "reward(" in source else "@reward\n"
    file.write_text(f"from grpo.rewards import reward\n\n\n{decorator}{source}\n")
    return str(file)


def build(folder: Path, source: str, **arguments: Any) -> RewardStack:
    return build_rewards({"mine": 1.0}, [write(folder, source)], arguments=arguments, system_prompt="Be brief.")


@pytest.mark.parametrize(("what", "source", "expected"), FORMS, ids=[what for what, _, _ in FORMS])
def test_what_a_reward_receives(tmp_path, what: str, source: str, expected: list[Any]) -> None:
    stack = build(tmp_path, source)
    stack.check_columns(ROWS, "the data")
    assert stack.score(BATCH)["mine"] == expected


def test_the_rewards_of_trl_itself(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "from trl.rewards import get_soft_overlong_punishment, think_format_reward\nfrom grpo.rewards import reward\n\n"
        "reward(think_format_reward)\nreward(get_soft_overlong_punishment(max_completion_len=3, soft_punish_cache=2))\n"
    )
    weights = {"think_format_reward": 1.0, "soft_overlong_punishment_reward": 1.0}
    scores = build_rewards(weights, [str(tmp_path / "mine.py")]).score(BATCH)
    assert [scores[name] for name in weights] == [[1.0, 0.0], [-1.0, 0.0]]


REFUSED = [
    ("def mine(): return 1", {}, r"'mine' takes \(\); a reward takes any of \(completion, gold"),
    ("def mine(level): return 1", {}, r"'mine' takes \(level\); a reward takes any of"),
    ("def mine(step): return 1", {}, r"'mine' takes \(step\); a reward takes any of"),
    ("def mine(completion, golds): return 1", {}, r"a batch takes completions, a list, not completion\."),
    ("def mine(completions, gold): return 1", {}, r"a batch takes golds, a list, not gold\."),
    ("def mine(completion, **kwargs): return 1", {}, r"\(completion, \*\*kwargs\); .* takes completions, a list"),
    ("def mine(*completions): return 1", {}, r"values are passed by name, so \*args"),
    ("def mine(completion, /): return 1", {}, r"values are passed by name, so \*args"),
    ("def mine(completions): yield 1", {}, r"'mine' contains yield, .* return a list with one score for each"),
    ("async def mine(completion): yield 1", {}, r"'mine' contains yield, so a call returns a generator.*return it"),
    ("class Mine:\n    __name__ = 'mine'\n    def __call__(self, completion): yield 1\nreward(Mine())", {}, "yield"),
    (
        "async def judge(text): return 1\n@reward\ndef mine(completion): return judge(completion)",
        {},
        r"returned a coroutine.*; await it, in an async def",
    ),
    (
        "async def judge(texts): return [1]\nmine = lambda completions: judge(completions)\nmine.__name__ = 'mine'\nreward(mine)",
        {},
        r"returned a coroutine.*; await it, in an async def",
    ),
    (
        "def scores(texts): yield 1\n@reward\ndef mine(completions): return scores(completions)",
        {},
        "returned a generator for 2 completions; return a list with one score for each",
    ),
    (
        "def mine(completion, levle): return 1",
        {},
        "takes 'levle', and the data has no column 'levle', only .*Did you mean 'level'",
    ),
    (
        "def mine(completion, completions_ids): return 1",
        {},
        "mean 'completion_ids'.*set reward_args.mine.completions_ids=",
    ),
    (
        "def mine(completion, limit=1): return 1",
        {"other": {"limit": 2}},
        "reward_args.other: there is no reward 'other'",
    ),
    ("def mine(completion, limit=1): return 1", {"mine": 2}, "reward_args.mine=2: name the parameter"),
    ("def mine(completion, limit=1): return 1", {"mine": {"limt": 2}}, "reward_args.mine.limt: .*Did you mean 'limit'"),
    ("def mine(completion): return 1", {"mine": {"limit": 2}}, "no such parameter. It has none to set."),
    (
        "def mine(completion, limit=1): return 1",
        {"mine": {"limit": "x"}},
        "reward_args.mine.limit=x: must be a whole number.",
    ),
    ("def mine(completion, limit=1): return 1", {"mine": {"limit": True}}, "must be a whole number."),
    ("def mine(completion, p: float): return 1", {"mine": {"p": "x"}}, "reward_args.mine.p=x: must be a number."),
    ("def mine(completion, on=True): return 1", {"mine": {"on": 1}}, "reward_args.mine.on=1: must be true or false."),
    (
        "def mine(completion, limit: int | None = None): return 1",
        {"mine": {"limit": "x"}},
        "reward_args.mine.limit=x: must be a whole number or null.",
    ),
    ("def mine(completion): return 1", {"mine": {"completion": "x"}}, "receives completion from the framework"),
]


# What a reward raises while it scores, and the message without its opening and the completion.
RAISED = [
    ("def mine(completion): raise ValueError('no\\n  answer\\n')", r"raised ValueError: no answer \(mine.py:5\)\."),
    ("def mine(completion): return [[1\n, 2], 3, '\\n']", r"returned \[\[1, 2\], 3, '\\n'\]; a reward is a finite"),
    (
        "import numpy\n@reward\ndef mine(completion): return numpy.eye(2)",
        r"returned array\(\[\[1., 0.\], \[0., 1.\]\]\);",
    ),
    # The line of the file, also for errors inside libraries and the framework's own functions.
    (
        "import json\n@reward\ndef mine(completion): return json.loads('{')",
        r"raised JSONDecodeError: .* \(mine.py:6\)\.",
    ),
    ("def mine(completions, log_extra): log_extra('a', [1])", r"log_extra: 'a' has 1 values .* \(mine.py:5\)\."),
    # A hint only where it may help.
    (
        "def mine(completions, **kwargs):\n    return {}['nope']",
        r"raised KeyError: 'nope' \(mine.py:6\)\. The first of 2",
    ),
    ("def mine(completions, **kwargs): return 1 + None", r"raised TypeError: .* \(mine.py:5\)\. The first of 2"),
    (
        "def mine(completions, **kwargs): return kwargs['nope']",
        r"raised KeyError: 'nope' \(mine.py:5\)\. kwargs has trainer_state, log_metric, log_extra, "
        r"prompts, completion_ids, task, ground_truth, level\. The first",
    ),
    (
        "def mine(completions, **rest): return [rest.pop('nope') for _ in completions]",
        r"KeyError: 'nope' \(mine.py:5\)\. rest has",
    ),
    (
        "async def mine(completions, **kwargs): return kwargs['nope']",
        r"KeyError: 'nope' \(mine.py:5\)\. kwargs has trainer_state",
    ),
    (
        "def mine(completion, example): return example.columns['nope']",
        r"KeyError: 'nope' \(mine.py:5\)\. Its columns: task, ground_truth, level, prompt\. The completion",
    ),
    (
        "def mine(examples): return [e.columns['nope'] for e in examples]",
        r"KeyError: 'nope' \(mine.py:5\)\. Its columns: task",
    ),
    (
        "def mine(completions, **kwargs): return [text.strip() for text in completions]",
        r"AttributeError.*Its completions are lists of messages; for texts, write completions: list\[str\]\.",
    ),
    (
        "import re\n@reward\ndef mine(completions, **kwargs): return [bool(re.match('a', c)) for c in completions]",
        r"TypeError.*Its completions are lists of messages; for texts, write completions: list\[str\]\.",
    ),
    (
        "def mine(completions): return [c[0]['content'] for c in completions]",
        r"TypeError.*Its completions are texts; for messages, write @reward\(messages=True\)\.",
    ),
    (
        "def mine(completion): return completion.get('content')",
        r"AttributeError.*Its completions are texts; for messages, write @reward\(messages=True\)\.",
    ),
]


@pytest.mark.parametrize(("source", "message"), RAISED)
def test_messages_of_a_reward_that_fails(tmp_path, source: str, message: str) -> None:
    stack = build(tmp_path, source)
    with pytest.raises(UserError, match=f"^reward 'mine' .*{message}") as refused:
        stack.score(BATCH)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("source", "arguments", "message"), REFUSED)
def test_what_is_refused(tmp_path, source: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        stack = build(tmp_path, source, **arguments)
        stack.check_columns(ROWS, "the data")
        stack.score(BATCH)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        ("def mine(completion, limit=15): return len(completion) > limit", {"limit": 30}, [0, 0]),
        ("def mine(completion, weight: float = 1): return weight", {"weight": 2}, [2, 2]),
        ("def mine(completion, low, high: int | None = None): return low + (high or 0)", {"low": 1, "high": 2}, [3, 3]),
        ("def mine(completions, words: list): return [len(words)] * 2", {"words": ["a", "b"]}, [2, 2]),
        # A value of reward_args replaces a column.
        ("def mine(completion, level): return level", {"level": 7}, [7, 7]),
        ("def mine(completions, level=1, **kwargs): return [level] * 2", {"level": 7}, [7, 7]),
    ],
)
def test_reward_args(tmp_path, source: str, arguments: dict[str, Any], expected: list[float]) -> None:
    stack = build(tmp_path, source, mine=arguments)
    stack.check_columns(ROWS, "the data")
    assert stack.score(BATCH)["mine"] == expected


def test_reward_args_on_the_command_line() -> None:
    config = compose(["reward_args.mine.limit=200", "+reward_args.mine.words=[a,b]", "reward_args.other.on=true"])
    assert config.reward_args == {"mine": {"limit": 200, "words": ["a", "b"]}, "other": {"on": True}}


UNKNOWN: list[tuple[str, list[Any]]] = [
    ("def mine(completion_tokens): return completion_tokens", [3, NAN]),
    ("def mine(completion, completion_tokens=0): return completion_tokens", [0, 0]),
    ("def mine(completions, truncated): return truncated", [NAN, NAN]),
    ("def mine(completion_ids, **kwargs): return [1, 1]", [NAN, NAN]),
    ("def mine(completion, step, max_steps): return step / max_steps", [1, 1]),
    ("def mine(completions, trainer_state): return [trainer_state.global_step] * 2", [1, 1]),
    ("def mine(completions, log_metric, **_): log_metric('a', 1); return [1, 1]", [1, 1]),
    ("def mine(completions, **kwargs): return [len(kwargs), 1]", [8, 1]),
    ("def mine(**kwargs): return [len(ids) for ids in kwargs['completion_ids']]", [NAN, NAN]),
    ("def mine(completions, **kwargs): return [len(kwargs['completion_ids'])] * 2", [NAN, NAN]),
    ("async def mine(completions, **kwargs): return [len(kwargs['completion_ids'][0])] * 2", [NAN, NAN]),
]


@pytest.mark.parametrize(
    ("source", "expected", "workers"), [*((*row, 0) for row in UNKNOWN), *((*row, 1) for row in UNKNOWN[2:9:3])]
)
def test_a_reward_abstains_where_it_needs_what_is_not_known(
    tmp_path, capsys, source: str, expected: list[Any], workers: int
) -> None:
    batch = ScoringBatch(TEXTS, ROWS, completion_tokens=[3, None], truncated=[False, None])
    stack = build_rewards({"mine": 1.0}, [write(tmp_path, source)], execution=ExecutionSettings(workers))
    assert [stack.score_one("mine", batch) for _ in range(2)] == [expected] * 2
    stack.executor.close()
    said = capsys.readouterr().out.count("not known for all completions here: there it abstains.")
    assert said == (NAN in expected)


def test_the_reward_of_right_answers_needs_no_token_ids(tmp_path) -> None:
    file = write(tmp_path, "def mine(completion_ids, **kwargs): return [1] * len(completion_ids)")
    with pytest.raises(UserError, match="correct_by=mine: the reward takes completion_ids, which files of completions"):
        build_rewards({"mine": 1.0}, [file], correct_by="mine")


MATH_ONLY = "def mine(completion, task): return float(len(completion)) if task == 'math' else None"


def test_the_total_leaves_abstentions_out(tmp_path) -> None:
    stack = build_rewards({"mine": 0.5, "correctness": 0.0}, [write(tmp_path, MATH_ONLY)])
    scores = {"mine": [2.0, np.nan, np.nan], "correctness": [2.0, 2.0, np.nan]}
    assert stack.total(scores) == [1.0, NAN, NAN]  # a reward that is only measured makes no total
    stack = stack.with_weights({"mine": 0.5, "correctness": 1.0})
    assert stack.total(scores) == [3.0, 2.0, NAN]


def test_an_evaluation_leaves_abstentions_out(tmp_path) -> None:
    stack = build(tmp_path, MATH_ONLY)
    examples = [ROWS[0], ROWS[1], Example("2 + 2?", "4", columns={"task": "math"})]
    first, second = (
        Evaluation(list(examples), [[Completion(text, None, None)] for text in texts], stack)
        for texts in (["a", "b", "ccc"], ["aa", "b", "cccc"])
    )
    assert first.figures["rewards/mine"] == 2.0 and first.figures["abstained/mine"] == pytest.approx(1 / 3)
    assert first.figures["reward"] == 2.0 and "abstained/correctness" not in first.figures
    low, high = first.intervals["rewards/mine"]
    assert low <= 2.0 <= high
    assert first.columns()["rewards/mine"] == [1.0, NAN, 3.0]
    assert paired_differences(second, first)["rewards/mine"].value == 1.0
    json.dumps(first.as_json(), allow_nan=False)


def test_a_reward_that_always_abstains_has_no_figure(tmp_path) -> None:
    stack = build(tmp_path, "def mine(completions, **kwargs): return [None] * len(completions)")
    evaluation = Evaluation(list(ROWS), [[Completion("a", 1, False)] for _ in ROWS], stack)
    assert "rewards/mine" not in evaluation.figures and evaluation.figures["abstained/mine"] == 1.0
    assert paired_differences(evaluation, evaluation)["accuracy_strict"].value == 0.0


RECORDING = """
import math
from grpo.rewards import reward

CALLS = []

@reward
def mine(prompts, completions, completion_ids, answer, trainer_state, log_metric, log_extra, **kwargs):
    steps = [solution.count("=") for solution in answer]
    lengths = [len(messages[0]["content"]) for messages in completions]
    CALLS.append((prompts, completions, completion_ids, trainer_state.global_step, sorted(kwargs), len(CALLS)))
    log_metric("mean_steps", sum(steps) / len(steps))
    log_metric("unknown", math.nan)
    log_extra("steps", steps)
    return [None if i % 4 == 3 else length / count for i, (length, count) in enumerate(zip(lengths, steps))]

@reward
def counting(completions, **kwargs):
    return [len(ids) for ids in kwargs["completion_ids"]]

@reward
def ending(truncated, completion_tokens, step, max_steps):
    return -truncated * completion_tokens * step / max_steps
"""


def test_training_computes_what_trl_computes(train, tmp_path) -> None:
    """TRL's own method, with the same function, gives the scores, metrics and columns of a run."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from grpo.policy.loading import build_policy, build_tokenizer
    from grpo.tasks.splits import load_splits

    (tmp_path / "mine.py").write_text(RECORDING)
    typed = ["reward_files=[mine.py]", "+rewards.mine=0.1", "+rewards.ending=0.1", "+rewards.counting=0"]
    out, results = train(*typed)
    function = REWARDS["mine"].function
    training = [call for call in function.__globals__["CALLS"] if len(call[0]) == 8 and call[2][0] is not None]
    assert [step for *_, step, _, _ in training] == [0, 1]

    config = compose()
    tokenizer, policy = build_tokenizer(config.model), build_policy(config.model, 0)
    arguments = GRPOConfig(
        str(tmp_path / "trl"), per_device_train_batch_size=8, num_generations=4, report_to=[], use_cpu=True, bf16=False
    )
    data = Dataset.from_list([{"prompt": training[0][0][0], "answer": "1 = 1"}])
    theirs = GRPOTrainer(
        policy, reward_funcs=[function], args=arguments, train_dataset=data, processing_class=tokenizer
    )
    splits = load_splits(compose(["data.train_problems=20", "data.eval_problems=4"]).data)
    columns = {example.question: dict(example.columns) for example in splits.train}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert "not_finite" not in {line.get("alarm") for line in lines}
    lines = [line for line in lines if "reward" in line]  # an alarm has a line of its own
    assert {key for line in lines for key in line if not is_metric_of_run(key)} == {"mean_steps", "unknown"}
    assert [line["unknown"] for line in lines] == [None, None]
    for index, (prompts, completions, ids, *_) in enumerate(training):
        inputs = [{"prompt": prompt, **columns[prompt[-1]["content"]]} for prompt in prompts]
        expected = theirs._calculate_rewards(inputs, prompts, completions, ids)[:, 0].tolist()
        saved = pd.read_parquet(out / "completions" / f"step_{index + 1:06d}.parquet")
        assert saved["mine"].tolist() == pytest.approx(expected, nan_ok=True)
        assert np.isnan(saved["mine"]).tolist() == [False, False, False, True] * 2
        assert saved["steps"].tolist() == theirs._pending_extra_logs.pop("steps")
        assert lines[index]["mean_steps"] == pytest.approx(theirs._pending_metrics.pop("mean_steps")[0])
        assert lines[index]["rewards/mine/mean"] == pytest.approx(np.nanmean(expected))
        assert lines[index]["abstained/mine"] == 0.25 and "abstained/ending" not in lines[index]
        lengths = np.array([len(row) if row[-1] != tokenizer.eos_token_id else 0 for row in ids])
        assert saved["ending"].tolist() == pytest.approx((-lengths * (index + 1) / 2).tolist())
    # The same names in **kwargs.
    calls = function.__globals__["CALLS"]
    assert calls[-1][4] == training[0][4] == ["question"]
    # An evaluation passes the same, and so does one that is read back.
    after = results["after"]
    assert after["abstained/mine"] == 0.25 and after["rewards/ending"] <= 0.0
    assert after["rewards/counting"] == after["mean_completion_tokens"] > 0
    stack = rewards_of(compose(typed))
    assert load_evaluation(out / "evaluations" / "after.json", splits.held_out, stack).as_json() == after


LOGGED = [
    ("log_metric('share', numpy.float32(0.5))", [("share", 0.5)]),
    ("log_metric('share', float('nan'))", [("share", NAN)]),
    ("log_extra('parts', ['a', 'b'])", [("parts", ["a", "b"])]),
    ("log_metric('share', 'x')", "log_metric: 'share' is str, not a number"),
    ("log_metric('loss', 1)", "log_metric: 'loss' is a name of the run's own metrics; choose another name"),
    ("log_metric('rewards/mine/mean', 1)", "'rewards/mine/mean' is a name of the run's own metrics"),
    ("log_metric('step', 1)", "'step' is a name of the run's own metrics"),
    ("log_extra('parts', [1])", "log_extra: 'parts' has 1 values for 2 completions"),
    ("log_extra('mine', [1, 2])", "completions/ has a column 'mine' of its own"),
    ("log_extra('total', [1, 2])", "completions/ has a column 'total' of its own"),
    ("log_extra('a', [1, 2]), log_extra('a', [1, 2])", "a column 'a' already, the reward logs it twice"),
    ("log_extra('other', [1, 2])", "a column 'other' already, the reward 'first' logs it"),
]


@pytest.mark.parametrize(
    ("call", "expected", "workers"), [*((*row, 0) for row in LOGGED), *((*row, 1) for row in LOGGED[2:5])]
)
def test_what_a_reward_logs(tmp_path, call: str, expected: Any, workers: int) -> None:
    source = (
        "import numpy\n@reward\ndef first(completions, log_extra):\n    log_extra('other', [1, 2])\n    return [1, 1]\n\n"
        f"@reward\ndef mine(completions, log_metric, log_extra):\n    {call}\n    return [1, 1]\n"
    )
    execution = ExecutionSettings(workers)
    stack = build_rewards({"first": 1.0, "mine": 1.0}, [write(tmp_path, source)], execution=execution)
    logged: list[Any] = []
    batch = replace(
        BATCH, log_metric=lambda *entry: logged.append(entry), log_extra=lambda *entry: logged.append(entry)
    )
    try:
        stack.score(batch)
        assert logged == [("other", [1, 2]), *expected]
    except UserError as error:
        assert isinstance(expected, str) and expected in str(error) and "(mine.py:12)" in str(error)
    stack.executor.close()


def test_a_column_of_a_parquet_file_has_one_type() -> None:
    assert storable([1, 2.5, None]) == [1, 2.5, None] and storable([True, None]) == [True, None]
    assert storable([1, "a", None, ["\ud800"]])[:3] == ["1", "a", None]


ABSTAINING = """
from grpo.rewards import reward

@reward
def mine(completions, **kwargs):
    return [None if i % 4 == 0 else float(i) for i in range(len(completions))]

@reward
def measured(completions):
    return list(range(len(completions)))
"""


def test_completions_that_no_reward_scores_have_no_advantage(train, tmp_path, capsys) -> None:
    (tmp_path / "mine.py").write_text(ABSTAINING)
    out, _ = train(
        "reward_files=[mine.py]", "rewards=correctness_only", "rewards.correctness=0", "+rewards={mine: 1, measured: 0}"
    )
    saved = pd.read_parquet(out / "completions" / "step_000001.parquet")
    assert saved["total"].isna().tolist() == [True, False, False, False] * 2
    assert saved["advantage"][[0, 4]].tolist() == [0.0, 0.0] and (saved["advantage"][[1, 5]] < -0.9).all()
    # A reward that is only measured has its scores there, too.
    assert saved["measured"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert (line["rewards/measured/mean"], line["rewards/mine/mean"]) == (3.5, 4.0)
    assert line["rewards/measured/std"] == pytest.approx(np.std(range(8), ddof=1))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("every reward with a weight abstains for 2 of 8 completions; they have no advantage") == 1
    assert "All reward functions returned None" not in said
