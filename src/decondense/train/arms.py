"""What is written on the command line in, the arm of a study, its layers, pairs and schedule out. Knows no model and no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from decondense.attach import LAYER_NAMES
from decondense.errors import UserError, choose
from decondense.losses.formulations import FORMULATIONS
from decondense.losses.pairs import Moments, Pairs, Partition, Subset
from decondense.train.schedules import Adaptive, GradientShare, Planned, WeightSchedule
from decondense.train.steering import CONDENSED

BASELINE = "cross_entropy"
NOISE = "noisy_embedding"
FORGETTING = "active_forgetting"
CONSTANT = "constant"
# Schedules of the weight, with the number that each has where none is given.
SCHEDULES = {CONSTANT: None, "warmup": 0.1, "decay": 1.0, "adaptive": 0.1, "gradient_share": 0.1}
FOLLOWING = "condensed"


@dataclass(frozen=True)
class Arm:
    """What is added to cross entropy in a run: a loss on hidden states, a baseline, or nothing.

    Attributes:
        name: of the arm, and of its folder where there are several.
        formulation: of the loss; None = none.
        weight: of the loss.
        noise: alpha of noisy embedding; 0 = none.
        forget_every: steps of active forgetting; 0 = none.
        schedule: of the weight, as `parse_schedule` reads it.
    """

    name: str
    formulation: str | None = None
    weight: float = 0.0
    noise: float = 0.0
    forget_every: int = 0
    schedule: str = CONSTANT


def parse_arm(
    text: str,
    weight: float,
    noise: float,
    forget_every: int,
    plain: Sequence[str] = (BASELINE,),
    schedule: str = CONSTANT,
) -> Arm:
    """The arm that NAME or NAME=VALUE stands for; without a value it has the one that is given here, or the usual one where that is 0.

    To arms with the names of `plain` nothing is added. The value of a formulation is WEIGHT, SCHEDULE or WEIGHT:SCHEDULE.

    >>> arm = parse_arm("effective_rank=0.03", weight=0.1, noise=0.0, forget_every=0)
    >>> arm.name, arm.formulation, arm.weight
    ('effective_rank-0.03', 'effective_rank', 0.03)
    >>> arm = parse_arm("dispersion=adaptive:0.05", weight=0.1, noise=0.0, forget_every=0)
    >>> arm.name, arm.weight, arm.schedule
    ('dispersion-adaptive-0.05', 0.1, 'adaptive:0.05')
    """
    name, equals, given = text.partition("=")
    choose("--arms", name, [*plain, NOISE, FORGETTING, *FORMULATIONS])
    if name in FORMULATIONS and equals:
        first, _, rest = given.partition(":")
        if first in SCHEDULES:
            given, schedule = str(weight), given
        elif rest:
            given, schedule = first, rest
    try:
        value = float(given) if equals else None
    except ValueError:
        raise UserError(f"--arms {text}: {given!r} is not a number") from None
    label = text.replace("=", "-").replace(":", "-")
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
    return Arm(label, name, weight if value is None else value, schedule=schedule)


def write_arm(arm: Arm, plain: Sequence[str], weight: float) -> str:
    """What `--arms` is told for this arm, by whatever options it was made, where `weight` is what a formulation has without a value.

    >>> write_arm(Arm("dispersion-3", "dispersion", 3.0), [BASELINE], weight=0.1)
    'dispersion=3'
    """
    if arm.formulation is not None:
        name, values = arm.formulation, [f"{arm.weight:g}", arm.schedule, f"{arm.weight:g}:{arm.schedule}"]
    elif arm.noise:
        name, values = NOISE, [f"{arm.noise:g}"]
    elif arm.forget_every:
        name, values = FORGETTING, [str(arm.forget_every)]
    else:
        return arm.name
    written = [name, *(f"{name}={value}" for value in values if not value.endswith(CONSTANT))]
    made = {text: parse_arm(text, weight, 0.0, 0, plain) for text in written}
    same = [text for text, other in made.items() if replace(other, name=arm.name) == arm]
    return next((text for text in same if made[text] == arm), same[0])


def parse_schedule(text: str, weight: float, steps: int) -> WeightSchedule | None:
    """The schedule of a loss's weight that is written as NAME or NAME:NUMBER; None = the weight is constant.

    constant; warmup:SHARE (of the steps, in which it rises to `weight`); decay:SHARE (of the steps, at the end, in which it falls from `weight`
    to 0); adaptive:COSINE (the mean cosine that is held); gradient_share:SHARE (of the gradient of the rest of the objective). The last two begin
    at `weight`.

    >>> parse_schedule("constant", 0.1, steps=100), parse_schedule("decay:0.5", 0.1, steps=100).weight(50)
    (None, 0.1)
    """
    name, colon, given = text.partition(":")
    choose("--weight-schedule", name, SCHEDULES)
    try:
        number = float(given) if colon else SCHEDULES[name]
    except ValueError:
        raise UserError(f"--weight-schedule {text}: {given!r} is not a number") from None
    if name == CONSTANT:
        if colon:
            raise UserError(f"--weight-schedule {text}: {CONSTANT} has no number; --weight says what it is")
        return None
    assert number is not None
    if name in ("warmup", "decay"):
        if not 0 < number <= 1:
            raise UserError(f"--weight-schedule {text}: a share of the steps is expected, above 0 and up to 1")
        some = max(round(number * steps), 1)
        if name == "warmup":
            return Planned(weight, warmup=some)
        return Planned(weight, decay_start=steps - some, decay_steps=some)
    try:
        return Adaptive(number, start=weight) if name == "adaptive" else GradientShare(number, start=weight)
    except UserError as error:
        raise UserError(f"--weight-schedule {text}, --weight {weight}: {error}") from error


def parse_layers(text: str) -> str | list[int]:
    """A name of layers, or their numbers.

    >>> parse_layers("late_half"), parse_layers("1,-1"), parse_layers("condensed:0.3")
    ('late_half', [1, -1], 'all')
    """
    if parse_condensed(text) is not None:
        return "all"
    if text in LAYER_NAMES:
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        choose("--layers", text, [*LAYER_NAMES, FOLLOWING])
        raise AssertionError from None  # choose raises


def parse_condensed(text: str) -> float | None:
    """The mean cosine above which a layer has the loss, where it follows condensation (condensed, or condensed:COSINE); else None.

    >>> parse_condensed("condensed"), parse_condensed("condensed:0.3"), parse_condensed("last")
    (0.2, 0.3, None)
    """
    name, colon, given = text.partition(":")
    if name != FOLLOWING:
        return None
    try:
        cosine = float(given) if colon else CONDENSED
    except ValueError:
        cosine = math.nan
    if not -1 < cosine < 1:
        raise UserError(f"--layers {text}: a mean cosine between -1 and 1 is expected, such as {FOLLOWING}:{CONDENSED}")
    return cosine


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
