"""Numbers of a study's arms in, one sentence out that says what they show and no more, also when that is nothing."""

from __future__ import annotations

from collections.abc import Sequence

from decondense.evaluate.intervals import Estimate


def describe_difference(difference: Estimate, baseline: float) -> str:
    """What happened to held-out perplexity: `difference` is arm minus baseline, paired by seed."""
    share = f"{abs(difference.mean) / baseline:.1%}"
    size = f"{abs(difference.mean):.1f} ({share})"
    lower = difference.mean < 0
    if difference.low is None or difference.high is None:
        return (
            f"its held-out perplexity is {size} {'lower' if lower else 'higher'}, by one seed, which tells no interval"
        )
    interval = f"95 % interval of the difference {difference.low:+.1f} to {difference.high:+.1f}"
    if not difference.excludes_zero:
        return f"its held-out perplexity differs by no more than noise ({difference.mean:+.1f}; {interval})"
    return f"its held-out perplexity is {size} {'lower' if lower else 'higher'} ({interval})"


def describe_condensation(mean_cosine: float, baseline: float) -> str:
    """What happened to the mean cosine of the middle layers."""
    values = f"{mean_cosine:.3f} against {baseline:.3f}"
    if mean_cosine <= baseline / 2:
        return f"at most half as condensed in its middle layers ({values})"
    if mean_cosine < baseline:
        return f"somewhat less condensed in its middle layers ({values})"
    return f"no less condensed in its middle layers ({values})"


def verdict(steps: int, tokens: int, seeds: int, baseline: str, arms: Sequence[tuple[str, str, str]]) -> str:
    """One sentence over all arms.

    Args:
        steps: of the training.
        tokens: that each arm was trained on.
        seeds: that each arm was trained from.
        baseline: the arm that the others are compared with.
        arms: name, `describe_condensation` and `describe_difference` of each other arm.
    """
    parts = "; ".join(f"{name} is {condensation}, and {difference}" for name, condensation, difference in arms)
    seeds_text = "one seed" if seeds == 1 else f"{seeds} seeds"
    return (
        f"After {steps:,} steps ({tokens:,} tokens) and {seeds_text}, compared with {baseline}: {parts}; "
        "this is said of this model, corpus and budget alone."
    )
