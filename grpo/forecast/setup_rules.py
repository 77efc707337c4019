"""Rules on the set-up: the limit of tokens, the end of completions, prompts that are dropped, duplicates.

Part of grpo/forecast/verdict.py. It knows no reward.
"""

from collections.abc import Iterator

from grpo.core.metric_names import ACCURACY_STRICT, TRUNCATED
from grpo.forecast.advice import Advice
from grpo.forecast.forecast import Forecast
from grpo.forecast.setup import LONGER

OFTEN = 0.05  # a share of truncated completions
ENDLESS = 0.9  # a share of completions without an end at twice the limit
MANY = 0.1  # a share of dropped prompts


def _truncated(forecast: Forecast) -> Iterator[Advice]:
    share = forecast.share(TRUNCATED)
    if share.value <= OFTEN:
        return
    limit, continuations = forecast.config.max_completion_length, forecast.setup.continuations
    truncated = forecast.evaluation.values[TRUNCATED] > 0
    right = forecast.evaluation.values[ACCURACY_STRICT]
    evidence = (
        f"{share.value:.1%} of the completions ({share.low:.1%} to {share.high:.1%}) are truncated at {limit} tokens"
        + "".join(f", {later:.1%} at {tokens}" for tokens, later in truncated_later(forecast).items())
        + f"; {right[truncated].mean():.1%} of them are right"
        + (f", of the others {right[~truncated].mean():.1%}" if not truncated.all() else "")
        + "."
    )
    if continuations is not None and share.value * continuations.longer_than(continuations.most) > ENDLESS:
        ends = " or ".join(forecast.setup.template.get("stop", ["an end token"]))
        change = (
            f"Check that the policy ends its turns with {ends}: use an instruction-tuned policy, model=NAME, or the "
            "chat template that it was tuned with, model.tokenizer=FOLDER."
        )
        yield Advice("warning", "no_end_token", evidence, change)
        return
    proposed = LONGER * limit if continuations is None else continuations.proposed_limit(share.value)
    most = limit * LONGER if continuations is None else continuations.most
    change = f"Raise the limit, max_completion_length={proposed or most}."
    if proposed is None:
        change += " More than 2% are truncated there, too; ask again with that limit."
    yield Advice("warning", "truncated", evidence, change)


def truncated_later(forecast: Forecast) -> dict[int, float]:
    """Tokens -> the share of completions that would be truncated there, at one and a half and at twice the limit."""
    continuations, limit = forecast.setup.continuations, forecast.config.max_completion_length
    if continuations is None:
        return {}
    share = forecast.share(TRUNCATED).value
    limits = [tokens for tokens in (limit * 3 // 2, limit * 2) if tokens <= continuations.most]
    return {tokens: share * continuations.longer_than(tokens) for tokens in limits}


def _dropped(forecast: Forecast) -> Iterator[Advice]:
    setup, limit = forecast.setup, forecast.config.max_prompt_length
    if not setup.train or setup.dropped <= MANY * setup.train:
        return
    evidence = (
        f"{setup.dropped:,} of {setup.train:,} training problems ({setup.dropped / setup.train:.0%}) have prompts of "
        f"more than {limit} tokens and are dropped."
    )
    change = f"Raise max_prompt_length={limit}, or set max_prompt_length=null, which drops none."
    yield Advice("warning", "prompts_dropped", evidence, change)


def _duplicates(forecast: Forecast) -> Iterator[Advice]:
    count = forecast.setup.duplicates
    if count:
        evidence = f"{count:,} training problems differ from held-out problems in case and punctuation only."
        change = "Remove them from the training file, or name another data.test_file=, so that figures stay held out."
        yield Advice("warning", "duplicates", evidence, change)


SETUP_RULES = (_truncated, _dropped, _duplicates)
