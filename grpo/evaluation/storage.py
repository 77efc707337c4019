"""Evaluations in files: a JSON file with the protocol and figures, and a Parquet file with every completion.

Called by training runs and `grpo.evaluate`. It does not decide where they are stored.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grpo.core.files import atomic_write, file_sha256, to_json
from grpo.evaluation.completion import Completion
from grpo.evaluation.evaluation import Evaluation, evaluate_completions
from grpo.rewards.stack import RewardStack
from grpo.runs.provenance import RECORDED_PACKAGES
from grpo.tasks.column_table import add_dataset_columns
from grpo.tasks.example import Example


def load_evaluation(path: Path, examples: Sequence[Example], rewards: RewardStack) -> "Evaluation":
    """The evaluation of `examples` that `save_evaluation` wrote to `path`, scored again."""
    from pyarrow import parquet

    rows = parquet.read_table(path.with_suffix(".parquet")).to_pylist()
    batch = {
        (row["problem"], row["sample"]): Completion(
            row["completion"], row["tokens"], row["truncated"], tuple(row.get("completion_ids") or ()) or None
        )
        for row in rows
    }
    return evaluate_completions(examples, [batch], rewards)


def new_origin(identity: str | None = None) -> dict[str, Any]:
    """The time and the package versions of completions that are generated now; `identity` is their evaluation."""
    return {
        "identity": identity,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {package: version(package) for package in RECORDED_PACKAGES},
    }


def save_evaluation(
    evaluation: Evaluation, path: Path, protocol: dict[str, Any], origin: dict[str, Any] | None = None
) -> None:
    """Write the protocol and the figures to `path`, and every completion with its scores to a .parquet beside it.

    Args:
        origin: when and with which versions the completions were generated; the default is `new_origin()`.
    """
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    # Both files are complete before either replaces an old one.
    with atomic_write(path) as report, atomic_write(path.with_suffix(".parquet")) as table:
        rows = pyarrow.table(evaluation.columns())
        parquet.write_table(add_dataset_columns(rows, evaluation.row_examples()), table)
        stored = {"protocol": protocol, "figures": evaluation.as_json(), "parquet_sha256": file_sha256(table)}
        report.write_text(to_json((origin or new_origin()) | stored), encoding="utf-8")
