"""Runs of policies with other chat templates than the embedded one: the same prompts and texts at every place."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from trl.trainer import grpo_trainer

from grpo.policy.chat_template import ChatTemplate
from grpo.policy.hub import ASSETS
from grpo.reports.page import highlight_tags
from grpo.reports.run_report import write_run_report
from grpo.sample import print_answers
from grpo.tasks.answer_format import DEFAULT_FORMAT
from tests.helpers.evaluation import evaluated
from tests.helpers.refusals import refusal_of

CHATML = (ASSETS / "tiny" / "chat_template.jinja").read_text()
OPENS = CHATML.replace(
    "<|im_start|>assistant\n", "<|im_start|>assistant\n{% if style == 'open' %}<reasoning>\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)


def policy_with(folder: Path, template: str) -> Path:
    """A copy of the embedded policy with another chat template."""
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def words(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_tag_that_the_prompt_opens_is_scored_and_shown(train, tmp_path, capsys, monkeypatch) -> None:
    """The template opens it only with the run's chat_template_kwargs, so these are used wherever it appears."""
    (tmp_path / "seen.py").write_text(
        "from grpo.rewards import reward\n\n\n@reward\ndef seen(completions, **kwargs):\n"
        "    return [float(messages[0]['content'].startswith('<reasoning>\\n')) for messages in completions]\n"
    )
    policy = policy_with(tmp_path / "policy", OPENS)
    rewards = [f"reward_files=[{tmp_path / 'seen.py'}]", "+rewards.seen=0.1"]
    out, results = train(f"model.path={policy}", "chat_template_kwargs.style=open", *rewards)
    said = words(capsys)
    assert r"ends the prompt with '<reasoning>\n': completions are scored and shown with this text" in said
    assert said.count("<reasoning>") >= 1 + 2 * len(results["examples"])  # the table of answers before and after
    completions = pd.read_parquet(out / "completions" / "step_000001.parquet")
    assert completions["completion"].str.startswith("<reasoning>\n").all() and completions["seen"].eq(1).all()
    saved = pd.read_parquet(out / "evaluations" / "after.parquet")
    assert saved["completion"].str.startswith("<reasoning>\n").all() and saved["rewards/seen"].eq(1).all()
    assert saved["tokens"].max() <= 16  # what the policy has sampled
    assert all(
        answers[when].startswith("<reasoning>\n") for answers in results["examples"] for when in ("before", "after")
    )
    assert (
        f'<pre tabindex="0">{highlight_tags(results["examples"][0]["after"], DEFAULT_FORMAT.tags)}'
        in write_run_report(out).read_text()
    )
    evaluated(f"run={out}", "name=again")
    report = json.loads((out / "evaluations" / "again.json").read_text())
    assert report["figures"] == results["after"]
    assert report["protocol"]["chat_template_kwargs"] == {"style": "open"}
    assert report["protocol"]["opened"] == "<reasoning>\n"
    said = words(capsys)
    assert "style=open in the chat template; the prompt ends with '<reasoning>\\n', which is scored" in said
    print_answers(out, ["How many pens are 3 boxes of 4?"], 8)
    assert words(capsys).count("<reasoning>") >= 2


@pytest.mark.parametrize("rollout", ["fast", "generate"])
def test_a_template_without_a_system_role(train, trainer, tmp_path, capsys, rollout: str) -> None:
    policy = policy_with(tmp_path / "policy", NO_SYSTEM)
    out, _ = train(f"model.path={policy}", f"rollout={rollout}")
    message = f"The chat template of {policy} has no system role: the system prompt is put into the user's turn, before"
    assert words(capsys).replace(" ", "").count(message.replace(" ", "")) == 1
    protocol = json.loads((out / "evaluations" / "before.json").read_text())["protocol"]
    assert protocol["system_role"] is False
    built = trainer(f"model.path={policy}", f"rollout={rollout}", "chat_template_kwargs.style=open")
    config = built.recorder.config
    prompts = [row["prompt"] for row in built.train_dataset]
    assert [message["role"] for message in prompts[0]] == ["user"]
    assert prompts[0][0]["content"].startswith(config.system_prompt.strip() + "\n\n")
    questions = [example.prompt for example in built.recorder.completion_log.examples]
    assert built._tokenize_prompts(prompts)[0] == ChatTemplate.of(built.processing_class, config).prompt_ids(questions)


def test_a_tokenizer_that_takes_completions_apart(trainer, monkeypatch) -> None:
    built = trainer()
    built.processing_class.response_template = {"a": "template"}
    monkeypatch.setattr(
        grpo_trainer, "parse_response", lambda *_, **__: {"role": "assistant", "content": "answer only"}
    )
    _, completion_ids, _, completions, *_ = built._generate([built.train_dataset[0]["prompt"]] * 2)
    texts = built.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
    assert completions == [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("chat_template_kwargs=5", "chat_template_kwargs=5: must be a mapping, in braces."),
        ("chat_template_kwargs=[a]", "chat_template_kwargs=[a]: must be a mapping, in braces."),
        ("chat_template_kwargs=null", "chat_template_kwargs=null: must be a mapping, in braces."),
        ("chat_template_kwargs={1:2}", "{1:2}: the names in braces must be texts, as in {name: 1}."),
        ("reward_args=5", "reward_args=5: must be a mapping, in braces."),
        (
            "chat_template_kwargs.tokenize=false",
            "chat_template_kwargs.tokenize=False: tokenize is no variable of a chat template but set for all of them; "
            "leave it out. A variable is given as in chat_template_kwargs.enable_thinking=false.",
        ),
        ("chat_template_kwargs={messages: []}", "chat_template_kwargs.messages=[]: messages is no variable"),
        (
            "enable_thinking=false",
            "Here it is chat_template_kwargs (as in chat_template_kwargs.enable_thinking=false).",
        ),
    ],
)
def test_values_that_are_no_variables_of_a_template(typed: str, message: str) -> None:
    assert message in refusal_of(typed)
