"""Asks the policy of a run, before it is trained: from checked settings to a forecast.

Called by `grpo.preflight`. The policy, the problems, the sampler and the rewards are those of the run, made by the
functions that make them for the session. It prints no table and writes no file.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo.config.batch import optimizer_steps
from grpo.config.samplers import sampler_in_process
from grpo.config.schema import PreflightConfig
from grpo.core.console import say
from grpo.core.device import peak_process_memory
from grpo.core.metric_names import MEAN_COMPLETION_TOKENS
from grpo.core.progress import spinner
from grpo.core.signals import StoppedBySignal
from grpo.evaluation.evaluation import Evaluation, evaluate_completions
from grpo.evaluation.protocol import describe_template
from grpo.forecast.costs import Costs, plan_costs
from grpo.forecast.forecast import NO_FOLDER, Forecast
from grpo.forecast.sampling import Sampled, draw_problems, sample_problems
from grpo.forecast.setup import SetupFacts, continue_truncated, count_duplicates
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.requirements import slow_bfloat16_warning
from grpo.rewards.reward_state import unchanged_reward_states
from grpo.rewards.stack import RewardStack
from grpo.runs.provenance import collect_provenance
from grpo.training.run_inputs import load_policy, load_problems, prepare_libraries


def ask_policy(
    config: PreflightConfig, rewards: RewardStack, difficulty_setting: str = NO_FOLDER
) -> tuple[Forecast, Sampled, dict[str, Any]]:
    """The forecast of the run, the completions that it is made from, and the provenance of both.

    Args:
        difficulty_setting: as `Forecast` takes it.

    Raises:
        UserError: as the preparation of a training run.
        StoppedBySignal: a signal came before the first problem was complete.
    """
    if warning := slow_bfloat16_warning(config):
        say(warning)
    if config.placebo:
        say("placebo=true: training permutes the advantages within each group; the forecast is of those before that.")
    splits = load_problems(config, rewards)
    prepare_libraries(config)
    from grpo.policy.compatibility import position_limit
    from grpo.policy.prefix_sharing import unwrap_adapters
    from grpo.sampling.build import build_sampler

    with spinner("loading the policy"):
        loaded = load_policy(config, splits)
        policy = loaded.policy.to(config.device)
    for note in loaded.notes:
        say(note)
    rollout = sampler_in_process(config.rollout)
    if rollout.name != config.rollout.name:
        say(f"rollout={config.rollout.name}: rollout={rollout.name} asks the policy, from the same distribution.")
    sampler = build_sampler(policy, loaded.tokenizer, replace(config, rollout=rollout))
    examples = draw_problems(loaded.train_examples, config)
    sampled = sample_problems(sampler, loaded.tokenizer, examples, config)
    continuations = None
    if sampled.is_complete:
        positions, _ = position_limit(unwrap_adapters(policy))
        try:
            continuations = continue_truncated(
                sampler, loaded.tokenizer, examples, sampled.completions, config, positions
            )
        except StoppedBySignal as stopped:
            sampled = replace(sampled, stopped=stopped)
    steps = optimizer_steps(config, len(loaded.train_examples))
    examples = examples[: sampled.problems]
    with spinner("scoring"), unchanged_reward_states(rewards.weights):
        at_start = rewards.with_weights(rewards.weights_at(0, steps))
        evaluation = evaluate_completions(examples, [sampled.completions], at_start)
    chat = ChatTemplate.of(loaded.tokenizer, config)
    end_tokens = loaded.tokenizer.convert_ids_to_tokens(sampler.end_token_ids)
    setup = SetupFacts(
        len(splits.train),
        len(splits.train) - len(loaded.train_examples),
        count_duplicates(loaded.train_examples, splits.held_out),
        describe_template(chat, end_tokens),
        continuations,
    )
    with spinner("recording versions and checksums"):
        facts = collect_provenance(config, splits.train, splits.held_out)
    lengths = [len(ids) for ids in chat.prompt_ids([example.prompt for example in examples])]
    costs = costs_of(config, evaluation, lengths, sampled)
    return Forecast(config, evaluation, lengths, setup, costs, difficulty_setting), sampled, facts


def costs_of(config: PreflightConfig, evaluation: Evaluation, prompts: Sequence[int], sampled: Sampled) -> Costs:
    """The costs of a step with the lengths that were measured."""
    prompt = sum(prompts) / len(prompts)
    completion = evaluation.figures[MEAN_COMPLETION_TOKENS]
    completions = config.prompts_per_step * config.num_generations
    return Costs(
        config.prompts_per_step * prompt,
        completions * completion,
        completions * sampled.seconds,
        peak_process_memory(config.device),
        plan_costs(config, prompt, completion),
    )
