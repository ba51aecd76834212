"""What is written on the command line in, the arm of a study, its layers and its pairs out. Knows no model and no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from decondense.attach import LAYER_NAMES
from decondense.errors import UserError, choose
from decondense.losses.formulations import FORMULATIONS
from decondense.losses.pairs import Moments, Pairs, Partition, Subset

BASELINE = "cross_entropy"
NOISE = "noisy_embedding"
FORGETTING = "active_forgetting"


@dataclass(frozen=True)
class Arm:
    """What is added to cross entropy in a run: a loss on hidden states, a baseline, or nothing.

    Attributes:
        name: of the arm, and of its folder where there are several.
        formulation: of the loss; None = none.
        weight: of the loss.
        noise: alpha of noisy embedding; 0 = none.
        forget_every: steps of active forgetting; 0 = none.
    """

    name: str
    formulation: str | None = None
    weight: float = 0.0
    noise: float = 0.0
    forget_every: int = 0


def parse_arm(text: str, weight: float, noise: float, forget_every: int, plain: Sequence[str] = (BASELINE,)) -> Arm:
    """The arm that NAME or NAME=VALUE stands for; without a value it has the one that is given here, or the usual one where that is 0.

    To arms with the names of `plain` nothing is added.

    >>> parse_arm("effective_rank=0.03", weight=0.1, noise=0.0, forget_every=0)
    Arm(name='effective_rank-0.03', formulation='effective_rank', weight=0.03, noise=0.0, forget_every=0)
    """
    name, equals, given = text.partition("=")
    choose("--arms", name, [*plain, NOISE, FORGETTING, *FORMULATIONS])
    try:
        value = float(given) if equals else None
    except ValueError:
        raise UserError(f"--arms {text}: {given!r} is not a number") from None
    label = text.replace("=", "-")
    if name in plain:
        if equals:
            raise UserError(f"--arms {text}: {name} has no value")
        return Arm(label)
    if name == NOISE:
        alpha = value if value is not None else noise or 5.0
        if not 0 < alpha < math.inf:
            raise UserError(f"--arms {text}: a number above 0 is expected, such as 5")
        return Arm(label, noise=alpha)
    if name == FORGETTING:
        every = value if value is not None else float(forget_every or 1000)
        if not 1 <= every < math.inf or every != int(every):
            raise UserError(f"--arms {text}: a whole number of steps is expected, such as 1000")
        return Arm(label, forget_every=int(every))
    return Arm(label, name, weight if value is None else value)


def parse_layers(text: str) -> str | list[int]:
    """A name of layers, or their numbers.

    >>> parse_layers("late_half"), parse_layers("1,-1")
    ('late_half', [1, -1])
    """
    if text in LAYER_NAMES:
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        choose("--layers", text, LAYER_NAMES)
        raise AssertionError from None  # choose raises


def parse_pairs(text: str, seed: int) -> Pairs:
    """Which pairs a loss is taken over, as its option says it; what is drawn is drawn from `seed`.

    >>> parse_pairs("all", 0), parse_pairs("moments:2", 0), parse_pairs("partition:64:1", 3)
    ('all', Moments(order=2), Partition(size=64, control=1, seed=3, same_on_ranks=False))
    """
    name, *numbers = text.split(":")
    most = {"all": 0, "moments": 1, "partition": 2, "subset": 1}
    choose("--pairs", name, most)
    try:
        given = [int(number) for number in numbers]
    except ValueError:
        given = [0] * 9
    if len(given) > most[name]:
        raise UserError(
            f"--pairs {text}: expected all, moments:ORDER, partition:SIZE[:CONTROL] or subset:SIZE, in whole numbers"
        )
    if name == "all":
        return "all"
    kinds: dict[str, Callable[..., Pairs]] = {
        "moments": Moments,
        "partition": partial(Partition, seed=seed),
        "subset": partial(Subset, seed=seed),
    }
    return kinds[name](*given)
