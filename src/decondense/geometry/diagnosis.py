"""The mean cosine of a layer, and what it is without each of its possible causes, in; why the layer looks condensed out, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decondense.geometry.causes import ROGUE
from decondense.shapes import Float

CONDENSED = 0.1
"""Mean cosine of different tokens from which a layer is called condensed; random directions have about 0."""

CARRIES = 0.5
"""Share of the mean cosine from which it is said to be carried by a cause."""

MOSTLY = 0.75
"""Share from which nothing but the cause is worth speaking of."""

CAUSES = {
    # The most specific first: the first that carries the mean cosine gives the sentence its subject.
    "sink tokens": "without_sinks",
    "repeated tokens": "without_repeats",
    "frequent tokens": "without_frequent_tokens",
    "rogue features": "without_rogue_features",
}
"""What can make a layer look condensed though most of its tokens are spread, and the metric that removes it."""


@dataclass(frozen=True)
class Diagnosis:
    """Why a layer looks condensed.

    Attributes:
        layer: index of `hidden_states`.
        mean_cosine: of different tokens.
        without: mean cosine of different tokens without each cause, by the cause's name; NaN where no pair is left.
        shares: by the cause's name, the share of the mean cosine that goes with it, 1 - without / mean cosine; shares overlap and need not add
            up. "common direction": mean cosine of tokens of different texts over that of a text's own; NaN for one text.
        features: the layer's largest features of the mean direction, as in `rogue features`.
        cause: the artefact that carries the mean cosine, "cone" where none does, or "none" where the layer is not condensed.
        sentence: the same in words.
    """

    layer: int
    mean_cosine: float
    without: Mapping[str, float]
    shares: Mapping[str, float]
    features: list[int]
    cause: str
    sentence: str

    def summary(self) -> dict[str, Any]:
        """Plain numbers and lists, None in place of NaN."""
        numbers = {
            name: {cause: None if math.isnan(value) else value for cause, value in getattr(self, name).items()}
            for name in ("without", "shares")
        }
        return {
            "layer": self.layer,
            "cause": self.cause,
            "sentence": self.sentence,
            "mean_cosine_off_diagonal": self.mean_cosine,
            **numbers,
            "features": self.features,
        }


def diagnose(
    layer: int, layers: int, values: Mapping[str, float], features: Float[Tensor, " features"], texts: int
) -> Diagnosis:
    """Say what carries the mean cosine of a layer.

    Args:
        layer: index of the layer.
        layers: how many there are.
        values: metrics of the layer by name: `mean_cosine_off_diagonal`, those of `CAUSES`, and `between_texts` where there are texts to compare.
        features: squared mean direction, summed over texts.
        texts: how many were measured.
    """
    mean = values["mean_cosine_off_diagonal"]
    without = {cause: values[metric] for cause, metric in CAUSES.items()}
    shares = {cause: _share(mean, rest) for cause, rest in without.items()}
    between = values.get("between_texts", math.nan)
    shares["common direction"] = min(between / mean, 1.0) if mean > 0 and not math.isnan(between) else math.nan
    largest: list[int] = features.topk(min(ROGUE, len(features))).indices.tolist()
    cause = _cause(mean, shares)
    return Diagnosis(
        layer,
        mean,
        without,
        shares,
        largest,
        cause,
        _sentence(layer, layers, mean, without, shares, largest, cause, texts),
    )


def _share(mean: float, rest: float) -> float:
    # Where hardly a token is left there is nothing to tell; a mean of about 0 has no shares.
    return math.nan if math.isnan(rest) or mean < 1e-6 else 1 - rest / mean


def _cause(mean: float, shares: Mapping[str, float]) -> str:
    if mean < CONDENSED:
        return "none"
    carrying = [cause for cause in CAUSES if shares[cause] >= CARRIES]
    return carrying[0] if carrying else "cone"


def _sentence(
    layer: int,
    layers: int,
    mean: float,
    without: Mapping[str, float],
    shares: Mapping[str, float],
    features: list[int],
    cause: str,
    texts: int,
) -> str:
    where = f"layer {layer} of {layers - 1} has mean cosine"
    if cause == "none":
        # Digits enough that a number which is below the bound also reads so.
        return f"Not condensed: {where} {mean:.3g}, which is below {CONDENSED:g}."
    where += f" {mean:.2f}"
    if cause != "cone":
        named = f"{cause} ({', '.join(map(str, features))})" if cause == "rogue features" else cause
        carried = f"{without[cause]:.2f} without {named}, which carry {_percent(shares[cause])} of it"
        kind = "An artefact, not a cone of all tokens" if shares[cause] >= MOSTLY else "In good part an artefact"
        return f"{kind}: {where}, and {carried}."
    rest = ", ".join(
        f"{name} {_percent(share)}" for name, share in shares.items() if name in CAUSES and not math.isnan(share)
    )
    common = shares["common direction"]
    if math.isnan(common):
        direction = "whether its direction is that of all texts takes more than one text to tell"
    elif common >= CARRIES:
        direction = f"{_percent(common)} of it lies along one direction common to all {texts} texts"
    else:
        direction = (
            f"each text has a direction of its own: only {_percent(common)} of it is common to all {texts} texts"
        )
    return f"A cone: {where}; {direction}, and no artefact carries it (shares: {rest})."


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.0f} %"
