"""Overrides: quoting of values, and the number of jobs of a sweep."""

import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from grpo.config.composition import compose
from grpo.config.overrides import count_values, explain_unparsable, quote_value, refuse_too_many_jobs, shell_argument
from grpo.core.errors import UserError
from tests.helpers.refusals import refusal_of


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=a/epoch=9.ckpt", """needs quotes within quotes: 'model.path="a/epoch=9.ckpt"'"""),
        ("optimizer={'lr': 0.02}", "set the settings of a group one by one: optimizer.lr=0.02"),
        ("rewards={'int': 0, 'xmlcount': 1}", "one by one: rewards.int=0 rewards.xmlcount=1"),
        (
            "system_prompt=Think first, then answer.",
            """a text with a comma needs quotes within quotes, 'system_prompt=""",
        ),
        ("system_prompt=Use {braces}", """'system_prompt="Use {braces}"'"""),
        (
            "system_prompt=Format: use (tags), please",
            """needs quotes within quotes: 'system_prompt="Format: use (tags), please"'""",
        ),
        (
            "system_prompt=it's (a test): 50%",
            """needs quotes within quotes: 'system_prompt="it'"'"'s (a test): 50%"'""",
        ),
        ("tracking.run_name=try 2: lr=1e-3", """needs quotes within quotes: 'tracking.run_name="try 2: lr=1e-3"'"""),
        ("data.question_column=a: b, c", """'data.question_column="a: b, c"'"""),
        ("system_prompt={- braces}", """needs quotes within quotes: 'system_prompt="{- braces}"'"""),
        ("system_prompt=${", "${ starts a name, as in ${seed}; for the characters themselves, write"),
        ('system_prompt="${"', "${ starts a name, as in ${seed}; for the characters themselves, write"),
        ("reward_files=[~nosuchuser/x.py]", "this machine has no user nosuchuser; write the path in full."),
        ("reward_files=[a.py,~nosuchuser/x.py]", "this machine has no user nosuchuser; write the path in full."),
        ("max_steps=ten", "max_steps=ten: must be a whole number."),
        ("max_steps=1.5", "max_steps=1.5: must be a whole number."),
        ("max_steps=", "max_steps=: must be a whole number."),
        ("optimizer.lr=fast", "optimizer.lr=fast: must be a number."),
        ("rewards.int=[1]", "rewards.int=[1]: must be a number, or a schedule in quotes"),
        ("bf16=maybe", "bf16=maybe: must be true or false."),
        ("system_prompt=[a]", "system_prompt=[a]: must be a text."),
        ("stop_on={a:1}", "stop_on={a:1}: must be a list, in brackets."),
        ("rewards=", "rewards=: rewards has no option ''."),
        ("system_prompt=#1", """'system_prompt="#1"'"""),
        ("system_prompt=Don't", r"""'system_prompt="Don'"'"'t"'"""),
        ("data.path=~/mine", "write data.path=/"),
        ("reward_files=[~/mine.py]", "write 'reward_files=[/"),
        ("reward_files=[a=b.py]", """write 'reward_files=["a=b.py"]'"""),
        ("stop_on=no_signal,truncated", "a list is written in brackets, stop_on=[no_signal,truncated]"),
        ("system_prompt", "not a setting; write NAME=VALUE."),
        ("a b=1", "not a setting; write NAME=VALUE."),
        ("num_generations=null", "it needs a value."),
        ("optimizer.lr=${nothing}", "there is no setting nothing to take a value from."),
        ("optimizer.lr=${nope:1}", "there is no resolver nope."),
    ],
)
def test_the_message_names_the_override_and_what_to_type(override: str, message: str) -> None:
    said = refusal_of(override)
    assert message in said and (said.startswith((f"{override}: ", "optimizer.lr=${nope:...}")))


@pytest.mark.parametrize(
    "text",
    [
        "a=b",
        "a, b",
        "it's",
        'say "x"',
        "a\\b",
        "a\\",
        'a\\"b',
        "1e5",
        "true",
        "null",
        "007",
        "~/x",
        "{a}",
        "é",
        "",
        " ",
    ],
)
def test_a_suggested_argument_sets_the_intended_value(text: str) -> None:
    (word,) = shlex.split(shell_argument("system_prompt", text))
    assert compose([word]).system_prompt == text
    assert OverridesParser.create().parse_override(f"key={quote_value(text)}").value() == text
    if text and (
        advice := explain_unparsable(f"system_prompt={text}").partition(": this value needs quotes within quotes: ")[2]
    ):
        assert compose(shlex.split(advice)).system_prompt == text


def parsed(*overrides: str) -> Any:
    return [OverridesParser.create().parse_override(each) for each in overrides]


@pytest.mark.parametrize(
    ("override", "count"),
    [
        ("a=1", 1),
        ("a=1,2,3", 3),
        ("a=choice(1,2)", 2),
        ("a=range(10)", 10),
        ("a=range(1,10,3)", 3),
        ("a=range(10,0)", 0),
        ("a=range(10,0,-1)", 10),
        ("a=range(0,0.7,0.1)", 7),
        ("a=interval(0,1)", 1),
    ],
)
def test_values_are_counted_without_listing_them(override: str, count: int) -> None:
    assert count_values(parsed(override)[0]) == count


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=range(0,1000000000)"], "seed (1,000,000,000): a sweep of 1,000,000,000 jobs; at most 10,000"),
        (["seed=shuffle(range(0,1000000000))"], "a sweep of 1,000,000,000 jobs"),
        (["seed=range(0,1000)", "num_generations=range(2,1002)"], "seed (1,000) x num_generations (1,000): a sweep of"),
        (["seed=range(0,1,1e-300)"], "or more jobs"),
        (["seed=range(0,inf)"], "a range has a finite start and end"),
        (["seed=range(0,10,0)"], "a step other than 0"),
    ],
)
def test_a_sweep_of_too_many_jobs_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        refuse_too_many_jobs(parsed(*overrides))
    assert message in str(error.value)
