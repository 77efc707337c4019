"""A run directory as Python code reads it: its metrics, completions and figures as tables, its policy, its report.

`grpo.load_run` is for programs and notebooks; `grpo.sample` asks the policy with it. It must not change a run, except
for its report.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grpo.config.schema import CommonConfig, Config, ModelConfig
from grpo.core.console import console, print_message
from grpo.core.errors import UserError, first_line
from grpo.core.files import parse_file, parse_json_object, read_json_lines
from grpo.core.progress import importing, spinner
from grpo.core.run_log import quiet_libraries
from grpo.policy.hub import is_loaded_from_hub, prepare_hub
from grpo.runs.results import Results, read_results
from grpo.runs.run_dir import RunDir, resolve_link
from grpo.runs.settings import read_config, read_finished_run_config, read_settings, trained_model
from grpo.runs.trust import require_trust
from grpo.tasks.example import SHOWCASE
from grpo.training.process import undisturbed_process

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

When = Literal["before", "after"]
# The settings that a question to the policy takes from the run; rewards and data are not needed.
USED_SETTINGS = {
    "model",
    "format",
    "system_prompt",
    "chat_template_kwargs",
    "max_completion_length",
    "seed",
    "eval_batch_size",
}


def load_run(folder: str | Path, trust_run: bool = False) -> "LoadedRun":
    """The run in `folder`, as `outputs/latest`; it may still be training.

    Args:
        trust_run: if somebody else made the folder, run the code of its policy.

    Raises:
        UserError: the folder is not a run directory.
    """
    path = resolve_link(Path(folder).expanduser())
    RunDir(path).require_run()
    return LoadedRun(path, trust_run)


class LoadedRun:
    """What a run has saved. Each property reads the files when it is used: a run that is training has new rows."""

    def __init__(self, folder: Path, trust_run: bool = False) -> None:
        self.folder, self.trust_run = folder, trust_run
        self._files = RunDir(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    @property
    def config(self) -> Config:
        """The settings of the run.

        Raises:
            UserError: they are damaged, or of another version.
        """
        return read_config(self.folder)

    @property
    def results(self) -> Results:
        """The results of the run.

        Raises:
            UserError: the run is not finished, or its results are damaged.
        """
        if (content := read_results(self.folder)) is None:
            raise UserError(
                f"{self.folder} holds a run that was not finished, so it has no results; "
                f"python -m grpo.train resume={self.folder} completes it."
            )
        return Results.of(self.folder, content)

    @property
    def metrics(self) -> "pd.DataFrame":
        """The logged metrics, a row for each step (the index) and a column for each metric: those of metrics.jsonl.

        The steps of a validation have the columns `eval/*`.
        """
        import pandas as pd

        lines = [line for line in read_json_lines(self._files.metrics_jsonl, {"step"}) if "alarm" not in line]
        try:
            frame = pd.DataFrame(lines, columns=None if lines else ["step"]).astype({"step": int}).set_index("step")
            return frame.astype(float).groupby(level="step").first()
        except (ValueError, TypeError) as error:
            raise UserError(f"{self._files.metrics_jsonl} is damaged: {first_line(error)}.") from error

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """The alarms of the run, each with its step."""
        return [line for line in read_json_lines(self._files.metrics_jsonl, {"step"}) if "alarm" in line]

    @property
    def completions(self) -> "pd.DataFrame":
        """Every completion of the logged steps: step, question, gold, completion, each reward, total and advantage."""
        import pandas as pd

        frames = [_read_table(path) for path in self._files.completion_files()]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["step", "completion"])

    @property
    def evaluations(self) -> "pd.DataFrame":
        """The figures of each evaluation, by its name (the index): `before`, `after`, `step_NNNNNN` of a validation.

        The columns are `n`, the number of problems, and each figure with its 95% interval: `accuracy_strict`,
        `accuracy_strict/low`, `accuracy_strict/high`. `accuracy_strict` counts answers inside the answer tags,
        `accuracy_flexible` the last number anywhere.
        """
        import pandas as pd

        rows = {}
        for path in sorted(self._files.evaluations.glob("*.json"), key=_order_of_evaluation):
            figures = dict(parse_file(path, parse_json_object).get("figures") or {})
            intervals = figures.pop("intervals", {})
            for name, (low, high) in intervals.items():
                figures |= {f"{name}/low": low, f"{name}/high": high}
            rows[path.stem] = figures
        return pd.DataFrame.from_dict(rows, orient="index")

    def evaluated_completions(self, name: str = "after") -> "pd.DataFrame":
        """Every completion of one evaluation, with its scores and whether it is right; `name` as in `evaluations`.

        Raises:
            UserError: there is no such evaluation.
        """
        path = self._files.evaluation_table(name)
        if not path.is_file():
            raise UserError(
                f"{name!r}: the run has no such evaluation, only {', '.join(map(repr, self.evaluations.index))}."
            )
        return _read_table(path)

    def policy(self, when: When = "after") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The policy and its tokenizer, on the CPU, after training or before it. Adapters are merged.

        Raises:
            UserError: the run is not finished, or its policy would run code and the run is not trusted.
        """
        config, models = self._models()
        with undisturbed_process(config.seed), spinner(f"loading the policy as it was {when} training"):
            prepare_to_load(config.model)
            from grpo.policy.loading import build_policy, build_tokenizer

            return build_policy(models[when], config.seed).eval(), build_tokenizer(models[when])

    def answers(self, questions: str | Sequence[str] = (), max_tokens: int | None = None) -> "pd.DataFrame":
        """The greedy answers of the policy to questions: columns `question`, `before` and `after` training.

        Args:
            questions: without one, the first example question of the run.
            max_tokens: the most tokens of an answer; by default as in the run.

        Raises:
            UserError: as `policy`.
        """
        import pandas as pd

        questions = [questions] if isinstance(questions, str) else list(questions) or [self._first_example()]
        config, models = self._models()
        # A question needs no GPU.
        config.device, config.bf16 = "cpu", False
        if max_tokens is not None:
            config.max_completion_length = max_tokens
        answers: dict[str, list[str]] = {}
        with undisturbed_process(config.seed):
            with importing("PyTorch and Transformers"):
                prepare_to_load(config.model)
                from grpo.evaluation.generation import generate_greedily
                from grpo.policy.compatibility import prepare_policy
                from grpo.policy.loading import build_policy, build_tokenizer
                from grpo.sampling.build import build_sampler
            for when, model in models.items():
                with spinner(f"loading the policy as it was {when} training"):
                    policy, tokenizer = build_policy(model, config.seed), build_tokenizer(model)
                    notes = prepare_policy(policy, tokenizer, questions, replace(config, model=model))
                    sampler = build_sampler(policy, tokenizer, config)
                for note in notes if when == "before" else ():  # the trained policy has the same template
                    print_message(note, console)
                with spinner(f"asking the policy as it was {when} training"):
                    answers[when] = generate_greedily(sampler, tokenizer, questions, config)
        return pd.DataFrame({"question": questions, **answers})

    def _models(self) -> "tuple[CommonConfig, dict[When, ModelConfig]]":
        """The settings for asking the policy, and the model before and after training."""
        require_trust(
            self.folder,
            read_settings(self.folder),
            advice="If you trust whoever made it, add --trust-run; in Python, trust_run=True.",
            settings_used=USED_SETTINGS,
            trusted=self.trust_run,
            policy=True,
        )
        config = read_finished_run_config(self.folder)
        models: dict[When, ModelConfig] = {"before": config.model, "after": trained_model(config.model, self.folder)}
        return config, models

    def _first_example(self) -> str:
        """The first example question of the run."""
        match read_results(self.folder):
            case {"examples": [{"question": str(question)}, *_]}:
                return question
        return SHOWCASE.question

    def report(self) -> Path:
        """Write report.html into the run directory, and return its path.

        Raises:
            UserError: a file of the run is damaged.
        """
        with spinner("importing Matplotlib"):
            from grpo.reports.run_report import write_run_report
        with spinner("drawing the report"):
            return write_run_report(self.folder)


def prepare_to_load(model: ModelConfig) -> None:
    """Find out whether the hub answers, if the policy comes from there, and silence the libraries that load it."""
    if is_loaded_from_hub(model):
        prepare_hub()
    quiet_libraries()


def _read_table(path: Path) -> "pd.DataFrame":
    """
    Raises:
        UserError: the file is damaged.
    """
    import pandas as pd
    import pyarrow

    try:
        return pd.read_parquet(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is damaged or not a Parquet file: {first_line(error)}.") from error


def _order_of_evaluation(path: Path) -> tuple[int, str]:
    """Before training, then the validations by step, then after training."""
    return {"b": 0, "s": 1}.get(path.stem[0], 2), path.stem
