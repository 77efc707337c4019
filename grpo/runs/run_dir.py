"""The files of a run directory and of a sweep folder: their names, and whether a folder is one.

Every module that reads or writes such a folder takes its paths from here. It must not know what the files hold; the
modules beside it read them: `settings`, `results`, `checkpoints`, `provenance`, `saved_run`.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from grpo.config import overrides as typed_overrides
from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.runs.lock import is_locked, locked

LATEST = "latest"  # a link in outputs/ to the newest run or sweep


class RunDir:
    """The paths of a run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Settings and code.
        self.hydra = path / ".hydra"
        self.settings_yaml = self.hydra / "config.yaml"  # the composed settings
        self.overrides_yaml = self.hydra / "overrides.yaml"  # the settings that were typed
        self.hydra_yaml = self.hydra / "hydra.yaml"  # Hydra's own settings
        self.signature_json = self.hydra / "signature.json"  # signs the settings that run code
        self.provenance_json = path / "provenance.json"  # code, packages, machine, data and policy
        self.git_diff = path / "git.diff"  # the changes of the code since its commit
        # Measurements.
        self.metrics_jsonl = path / "metrics.jsonl"  # one line per logged step, validation or alarm
        self.transcripts_jsonl = path / "transcripts.jsonl"  # the example questions with the completions of the policy
        self.completions = path / "completions"  # one table per logged step
        self.evaluations = path / "evaluations"  # each is a .json with figures and a .parquet with completions
        self.nonfinite = path / "nonfinite"  # batches whose loss or gradient was not finite
        self.train_log = path / "train.log"
        # Results.
        self.results_json = path / "results.json"  # of a finished run
        self.policy = path / "policy"  # the trained policy
        self.reference = path / "reference"  # weights before training, if no folder has them: the reference policy
        self.report_html = path / "report.html"
        self.error_txt = path / "error.txt"  # of a job of a sweep: why it has no results
        # For resuming.
        self.lock_file = path / ".lock"
        self.checkpoints = path / "checkpoints"
        self.previous = path / "previous"  # what was written after the checkpoint, until there are new results

    def completions_of(self, step: int) -> Path:
        return self.completions / f"step_{step:06d}.parquet"

    def evaluation(self, name: str) -> Path:
        """The figures of an evaluation; `name` is `before`, `after`, `step_NNNNNN`, or with eval_samples also
        `before_samples` and `after_samples`."""
        return self.evaluations / f"{name}.json"

    def evaluation_table(self, name: str) -> Path:
        """The completions of an evaluation, with their scores."""
        return self.evaluations / f"{name}.parquet"

    def snapshot_files(self) -> list[Path]:
        """The files that a run writes while it trains, of which each checkpoint holds copies."""
        names = ("before", "before_samples")
        evaluations = [path for name in names for path in (self.evaluation(name), self.evaluation_table(name))]
        return [self.metrics_jsonl, self.transcripts_jsonl, self.provenance_json, *evaluations]

    def completion_files(self) -> list[Path]:
        return sorted(self.completions.glob("step_*.parquet"))

    def has_settings(self) -> bool:
        """Whether the folder has the settings of a run: only then it can be read."""
        return self.settings_yaml.is_file()

    def is_used(self) -> bool:
        """Whether a run has written to the folder."""
        return self.settings_yaml.exists() or self.completions.exists()

    def locked(self) -> AbstractContextManager[None]:
        """This process owns the directory within the context; the lock ends with the process, however it ends.

        Raises:
            UserError: another process owns it.
        """
        return locked(self.lock_file, "run")

    def is_locked(self) -> bool:
        """Whether a run is in progress here. It takes the lock for a moment, so a run that starts then fails."""
        return is_locked(self.lock_file)

    def move_to_previous(self, path: Path) -> None:
        """Move a file or a folder of the run to `previous/`; if one of that name is there already, delete this one."""
        target = self.previous / path.relative_to(self.path)
        if target.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif path.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)

    def delete_previous(self) -> None:
        """Delete `previous/`, once new results are written."""
        if self.previous.is_dir():
            shutil.rmtree(self.previous)

    def require_run(self) -> None:
        """
        Raises:
            UserError: the folder is not a run directory.
        """
        if self.has_settings():
            return
        if SweepDir(self.path).sweep_json.is_file():
            raise UserError(
                f"{self.path} is the folder of a sweep; give that of one of its runs, such as {self.path / '0'}."
            )
        missing = "" if self.path.exists() else ": it does not exist"
        raise UserError(
            f"{self.path} is not a run directory{missing}; give the one that a run named at its end, outputs/DATE/TIME."
        )


class SweepDir:
    """The paths in the folder of a sweep, except the run directories of its jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep_json = path / "sweep.json"  # the command and the jobs
        self.multirun_yaml = path / "multirun.yaml"  # the settings, written by Hydra or by us
        self.report_html = path / "report.html"
        self.shared_completions = path / "shared"  # of the untrained policy, for all jobs
        self.lock_file = path / ".lock"

    def is_used(self) -> bool:
        """Whether a sweep has written to the folder."""
        return self.sweep_json.is_file() or self.multirun_yaml.is_file()

    def locked(self) -> AbstractContextManager[None]:
        """As `RunDir.locked`."""
        return locked(self.lock_file, "sweep")


def refuse_used(folder: Path, setting: str) -> None:
    """
    Raises:
        UserError: the folder that `setting` gives to something new holds a run or a sweep.
    """
    has_run = RunDir(folder).is_used()
    if has_run or SweepDir(folder).is_used():
        content = "run" if has_run else "sweep"
        raise UserError(
            f"{display_path(folder)} holds a {content}, which is not overwritten; give another folder, {setting}."
        )


def new_run_folder() -> Path:
    """The directory of a new run where none is given: outputs/DATE/TIME, as `hydra.run.dir` in conf/config.yaml."""
    return Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S"))


def create_folder(folder: Path, setting: str) -> None:
    """
    Raises:
        UserError: the folder that `setting` gives cannot be created.
    """
    if fault := typed_overrides.folder_fault(str(folder)):
        raise UserError(f"{setting.partition('=')[0]}={str(folder)!r}: {fault}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}; give another folder, {setting}.") from error


@contextmanager
def removed_if_unused(folder: Path, ignored: str = ".lock") -> Iterator[None]:
    """On exit, remove `folder` if it holds nothing but a file named `ignored`, and then its empty parents, up to the
    working directory."""
    try:
        yield
    finally:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {ignored}:
            (folder / ignored).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                folder.rmdir()
                for parent in folder.absolute().parents:
                    if parent == Path.cwd() or not parent.is_relative_to(Path.cwd()):
                        break
                    parent.rmdir()


def resolve_link(folder: Path) -> Path:
    """The folder that a link such as `outputs/latest` points to; any other folder as it is."""
    return Path(display_path(folder.resolve())) if folder.is_symlink() else folder


def link_latest(folder: Path) -> None:
    """Make `outputs/latest` point to a run or a sweep in `outputs/`, if the file system supports links."""
    outputs, target = Path("outputs").resolve(), folder.resolve()
    if not target.is_relative_to(outputs):
        return
    link = outputs / f".{LATEST}.{os.getpid()}"
    with suppress(OSError):
        link.symlink_to(target.relative_to(outputs), target_is_directory=True)
        os.replace(link, outputs / LATEST)
    link.unlink(missing_ok=True)


def latest_or(folder: Path) -> Path:
    """`outputs/latest` if it points to `folder`, else `folder`."""
    link = Path("outputs", LATEST)
    return link if link.is_symlink() and link.resolve() == folder.resolve() else folder


def quoted_path(folder: Path) -> str:
    """A path as a value of a Hydra override."""
    return typed_overrides.quote_value(str(folder))
