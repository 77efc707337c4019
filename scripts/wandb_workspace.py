"""Lay out the panels of a W&B project: `python scripts/wandb_workspace.py ENTITY/PROJECT`

Adds a saved view to the project and prints its address. Its sections, from the top: total reward and right answers,
each reward, the shares of the advantage, groups of completions, completions and their table, optimisation, validation.
One panel overlays all rewards, whatever their names, so that it also shows your own rewards.

The project must contain a run. Each call adds another view and leaves the existing views unchanged.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from grpo.config.composition import compose
from grpo.core.errors import UserError, first_line
from grpo.training.trackers.wandb_tracker import logged_in, normalize_environment, wandb_project

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

# The time limit of a request, which is sent twice at most. With its defaults, wandb retries for many minutes.
ANSWER_SECONDS = 4
INTERVAL = "(?:_low|_high)?"
HELD_OUT = [f"{when}/accuracy_{kind}" for kind in ("strict", "flexible") for when in ("before", "after")]


def sections() -> "list[Section]":
    """The sections of the view, from the top.

    The expressions are RE2. None has a capturing group, because W&B splits a panel by its groups.
    """
    from wandb_workspaces.reports.v2 import BarPlot, LinePlot, WeavePanelSummaryTable
    from wandb_workspaces.workspaces import Section, SectionLayoutSettings

    def lines(title: str, *names: str) -> LinePlot:
        return LinePlot(title=title, y=list(names))

    def overlay(title: str, regex: str) -> LinePlot:
        return LinePlot(title=title, metric_regex=f"^{regex}$")

    def section(name: str, *panels: LinePlot | BarPlot | WeavePanelSummaryTable, is_open: bool = True) -> Section:
        columns = min(3, len(panels))
        layout = SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns))
        return Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)

    return [
        section(
            "Total reward and right answers",
            lines("Total reward per completion", "reward"),
            lines("Right completions", "completions/correct"),
            overlay("Validation problems right inside <answer>, 95% interval", f"eval/accuracy_strict{INTERVAL}"),
            BarPlot(
                title="Held-out problems right inside <answer> (strict) and as last number (flexible)",
                metrics=[*HELD_OUT],
            ),
        ),
        section(
            "Each reward (rewards/)",
            overlay("Mean of each reward, unweighted", "rewards/.+/mean"),
            overlay("Spread of each reward and of the total", "(?:rewards/.+/std|reward_std)"),
            overlay("Share of completions for which a reward abstained", "abstained/.+"),
            overlay("Weight of each reward with a schedule", "reward_weight/.+"),
            overlay("Seconds per step that each reward takes", "time/reward/.+"),
        ),
        section(
            "Shares of the advantage (advantage_share/)",
            overlay("Each reward's share of the advantage; below 0 it opposes the total", "advantage_share/[^/]+"),
            overlay("Completions whose advantage would change sign without the reward", "advantage_flips/.+"),
            lines(
                "Phantom: share of the squared advantages in groups that are all wrong or all right",
                "advantage_share/phantom",
                "advantage_share/phantom/none_correct",
                "advantage_share/phantom/all_correct",
            ),
        ),
        section(
            "Groups of completions (groups/)",
            lines(
                "Groups that are all right, partly right, all wrong",
                "groups/all_correct",
                "groups/mixed",
                "groups/none_correct",
            ),
            lines(
                "Groups without a gradient; groups whose gradient comes from other rewards than that for right answers",
                "groups/zero_std",
                "groups/correctness_constant",
            ),
            overlay("Groups in which a reward is the same for all completions", "groups/zero_std/.+"),
        ),
        section(
            "Completions (completions/)",
            overlay("Tokens per completion: mean, shortest, longest", "completions/(?:mean|min|max)_length"),
            overlay("Tokens per completion that is not truncated", "completions/(?:mean|min|max)_terminated_length"),
            lines("Share truncated at max_completion_length", "completions/clipped_ratio"),
        ),
        section("Completions, one by one", WeavePanelSummaryTable(table_name="completions")),
        section(
            "Optimisation",
            lines("Loss; with an entropy bonus also without it", "loss", "policy_loss"),
            lines("Norm of the gradient", "grad_norm"),
            lines("Entropy, nats per token", "entropy"),
            lines("Weight of the entropy bonus (algorithm.entropy_coef)", "entropy_coef"),
            lines("KL from the policy at the start (algorithm.beta above 0)", "kl"),
            lines("Learning rate", "learning_rate"),
            overlay(
                "Share of tokens with a clipped ratio; with algorithm=vespo the mean weight of a completion",
                "(?:clip_ratio/.+|cispo_clip_ratio|vespo/.+)",
            ),
            lines("Seconds per step", "step_time"),
            lines("Tokens seen so far", "num_tokens"),
        ),
        section(
            "All validation metrics (eval/, with eval_steps)",
            overlay("Right as last number", f"eval/accuracy_flexible{INTERVAL}"),
            overlay("Exact format; reasoning, then answer", f"eval/(?:strict|soft)_format{INTERVAL}"),
            overlay("Total reward", f"eval/reward{INTERVAL}"),
            overlay("Mean of each reward, unweighted", "eval/rewards/.+"),
            overlay("Share of completions for which a reward abstained", "eval/abstained/.+"),
            overlay("Tokens per completion", f"eval/mean_completion_tokens{INTERVAL}"),
            overlay("Share truncated at max_completion_length", f"eval/truncated{INTERVAL}"),
            is_open=False,
        ),
    ]


def workspace(entity: str, project: str) -> "Workspace":
    from wandb_workspaces.workspaces import RunsetSettings, Workspace

    columns = [f"summary:{metric}" for metric in HELD_OUT]
    return Workspace(
        entity=entity,
        project=project,
        name="GRPO",
        sections=sections(),
        runset_settings=RunsetSettings(pinned_columns=columns),
    )


def save(target: str) -> str:
    """Save the view of `[ENTITY/]PROJECT`, and return its address.

    Raises:
        UserError: the package is missing, nobody is logged in, or W&B cannot be reached or refuses.
    """
    *entities, project = target.split("/")
    if len(entities) > 1 or not all([*entities, project]):
        raise UserError(f"{target!r} is not a project; give ENTITY/PROJECT, as in the project's address, or PROJECT.")
    try:
        import wandb
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the package wandb-workspaces is not installed: pip install 'wandb-workspaces>=0.4'."
        ) from error
    normalize_environment()
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        raise UserError(f"WANDB_MODE={mode}: a view can only be saved online; unset it and run this again.")
    limits = wandb.Settings(
        silent=True,
        x_graphql_timeout_seconds=ANSWER_SECONDS,
        x_graphql_retry_max=1,
        x_graphql_retry_wait_max_seconds=1,
    )
    try:
        wandb.setup(settings=limits)
        if not logged_in():
            raise UserError("nobody is logged in to W&B; run `wandb login`, or set WANDB_API_KEY, then run this again.")
        api = wandb.Api()
        entity = entities[0] if entities else api.settings["entity"] or api.default_entity
        if not entity:
            raise UserError(f"W&B names no default entity; give one, ENTITY/{project}.")
        return workspace(entity, project).save().url
    except UserError:
        raise
    except Exception as error:  # some of wandb's exceptions are private
        raise UserError(
            f"W&B did not accept the panels of {target}: {first_line(error)}. "
            "Check that it is reachable and that the key may write there."
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "target",
        nargs="?",
        metavar="ENTITY/PROJECT",
        help="default: tracking.project of conf/tracking/wandb.yaml; PROJECT: below your default entity",
    )
    target = parser.parse_args().target
    try:
        print(save(wandb_project(compose().tracking) if target is None else target))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
