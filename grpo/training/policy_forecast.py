"""Asks the policy of a run, before it is trained: from checked settings to a forecast.

Called by `grpo.preflight`. The policy, the problems, the sampler and the rewards are those of the run, made by the
functions that make them for the session. It prints no table and writes no file.
"""

from dataclasses import replace
from typing import Any

from grpo.config.batch import optimizer_steps
from grpo.config.samplers import sampler_in_process
from grpo.config.schema import PreflightConfig
from grpo.core.console import say
from grpo.core.device import set_determinism, set_threads
from grpo.core.progress import spinner
from grpo.core.run_log import quiet_libraries
from grpo.evaluation.evaluation import evaluate_completions
from grpo.forecast.forecast import Forecast
from grpo.forecast.sampling import Sampled, draw_problems, sample_problems
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.hub import is_loaded_from_hub, prepare_hub
from grpo.policy.requirements import slow_bfloat16_warning
from grpo.rewards.reward_state import unchanged_reward_states
from grpo.rewards.stack import RewardStack
from grpo.runs.provenance import collect_provenance
from grpo.training.run_inputs import load_policy, load_problems
from grpo.training.run_output import notes_on_policy


def ask_policy(config: PreflightConfig, rewards: RewardStack) -> tuple[Forecast, Sampled, dict[str, Any]]:
    """The forecast of the run, the completions that it is made from, and the provenance of both.

    Raises:
        UserError: as the preparation of a training run.
        StoppedBySignal: a signal came before the first problem was complete.
    """
    if warning := slow_bfloat16_warning(config):
        say(warning)
    if config.placebo:
        say("placebo=true: training permutes the advantages within each group; the forecast is of those before that.")
    splits = load_problems(config, rewards)
    if is_loaded_from_hub(config.model):
        prepare_hub()
    with spinner("importing PyTorch and Transformers"):
        quiet_libraries()
        from grpo.sampling.build import build_sampler
    for note in notes_on_policy(config):
        say(note)
    set_threads(config.threads)
    set_determinism(config.device, config.deterministic)
    with spinner("loading the policy"):
        loaded = load_policy(config, splits)
        policy = loaded.policy.to(config.device)
    for note in loaded.notes:
        say(note)
    sampler = build_sampler(policy, loaded.tokenizer, replace(config, rollout=sampler_in_process(config.rollout)))
    examples = draw_problems(loaded.train_examples, config)
    sampled = sample_problems(sampler, loaded.tokenizer, examples, config)
    steps = optimizer_steps(config, len(loaded.train_examples))
    examples = examples[: sampled.problems]
    with spinner("scoring"), unchanged_reward_states(rewards.weights):
        at_start = rewards.with_weights(rewards.weights_at(0, steps))
        evaluation = evaluate_completions(examples, [sampled.completions], at_start)
    with spinner("recording versions and checksums"):
        facts = collect_provenance(config, splits.train, splits.held_out)
    prompts = ChatTemplate.of(loaded.tokenizer, config).prompt_ids([example.prompt for example in examples])
    return Forecast(config, evaluation, [len(ids) for ids in prompts]), sampled, facts
