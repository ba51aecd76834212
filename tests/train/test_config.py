"""Options in, runs out: what is filled in, what is refused, and what makes two runs different."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from decondense import Moments, Partition, Subset, UserError
from decondense.losses.formulations import FORMULATIONS
from decondense.train.arms import Arm, parse_arm, parse_layers, parse_pairs, parse_schedule, write_arm
from decondense.train.config import TrainConfig
from decondense.train.schedules import Planned

CPU = TrainConfig(device="cpu")


def test_defaults_from_scratch_and_from_a_model():
    scratch, init = CPU.filled(None), replace(CPU, init="gpt2").filled(512)
    assert (scratch.context, scratch.learning_rate, scratch.steps) == (128, 2e-3, 300)
    assert (init.context, init.learning_rate, init.embedding_learning_rate) == (512, 5e-5, 1e-4)
    assert replace(CPU, init="x").filled(None).context == 1024
    assert scratch.precision == "float32"


def test_a_token_budget_is_so_many_steps():
    filled = replace(CPU, tokens=10_000, context=100, batch_size=3).filled(None)
    assert (filled.steps, filled.tokens) == (34, 10_200)


def test_the_arm_that_the_options_make():
    assert CPU.all_arms() == [Arm("dispersion", "dispersion", 0.1)]
    assert replace(CPU, formulation="cross_entropy").all_arms() == [Arm("cross_entropy")]
    # A baseline is the paper's only without our loss, unless both are asked for.
    assert replace(CPU, noisy_embedding=5.0).all_arms() == [Arm("noisy_embedding", noise=5.0)]
    assert replace(CPU, active_forgetting=7).all_arms() == [Arm("active_forgetting", forget_every=7)]
    both = replace(CPU, noisy_embedding=5.0, formulation="koleo", weight=2.0).all_arms()
    assert both == [Arm("koleo+noisy_embedding", "koleo", 2.0, 5.0)]


def test_arms_by_name_and_value():
    named = ("cross_entropy", "dispersion", "dispersion=3", "noisy_embedding", "active_forgetting=20")
    assert replace(CPU, arms=named, weight=0.2).all_arms() == [
        Arm("cross_entropy"),
        Arm("dispersion", "dispersion", 0.2),
        Arm("dispersion-3", "dispersion", 3.0),
        Arm("noisy_embedding", noise=5.0),
        Arm("active_forgetting-20", forget_every=20),
    ]
    for name in FORMULATIONS:
        assert parse_arm(name, 0.1, 0.0, 0) == Arm(name, name, 0.1)


def test_arms_with_a_schedule_of_their_own():
    named = ("dispersion", "dispersion=adaptive:0.05", "dispersion=0.3:decay:0.5", "koleo=2", "cross_entropy")
    assert replace(CPU, arms=named, weight=0.2, weight_schedule="warmup").all_arms() == [
        Arm("dispersion", "dispersion", 0.2, schedule="warmup"),
        Arm("dispersion-adaptive-0.05", "dispersion", 0.2, schedule="adaptive:0.05"),
        Arm("dispersion-0.3-decay-0.5", "dispersion", 0.3, schedule="decay:0.5"),
        Arm("koleo-2", "koleo", 2.0, schedule="warmup"),
        Arm("cross_entropy"),
    ]
    one, other = (
        replace(CPU, weight_schedule="decay").all_arms()[0],
        replace(CPU, weight_schedule="decay:0.5").all_arms()[0],
    )
    assert CPU.recorded(one, 0) != CPU.recorded(other, 0)


def test_schedules_by_name_and_number():
    assert parse_schedule("constant", 0.3, 100) is None
    assert parse_schedule("warmup", 0.3, 100) == Planned(0.3, warmup=10)
    assert parse_schedule("warmup:0.5", -0.3, 100) == Planned(-0.3, warmup=50)
    assert parse_schedule("decay", 0.3, 100) == Planned(0.3, decay_start=0, decay_steps=100)
    assert parse_schedule("decay:0.2", 0.3, 100) == Planned(0.3, decay_start=80, decay_steps=20)
    adaptive, share = parse_schedule("adaptive:0.05", 0.3, 100), parse_schedule("gradient_share", 0.3, 100)
    assert (adaptive.target, adaptive.weight(0)) == (0.05, 0.3)
    assert (share.share, share.weight(0)) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_schedule": "adaptive:2"}, "--weight-schedule adaptive:2, --weight 0.1: target=2.0"),
        ({"weight_schedule": "adaptive", "weight": 0.0}, "--weight 0.0: lowest=0.0001, start=0.0"),
        ({"weight_schedule": "adaptiv"}, "did you mean 'adaptive'"),
        ({"weight_schedule": "decay:2"}, "a share of the steps is expected"),
        ({"weight_schedule": "constant:2"}, "constant has no number"),
        ({"weight_schedule": "decay:all"}, "'all' is not a number"),
        ({"arms": ("dispersion=decay:0",)}, "--weight-schedule decay:0: a share"),
        ({"arms": ("dispersion=0.1:much",)}, "--weight-schedule 'much' is not known"),
        ({"layers": "condensed:2"}, "--layers condensed:2: a mean cosine between -1 and 1"),
        ({"layers": "condensd"}, "did you mean 'condensed'"),
        ({"monitor_every": -1}, "--monitor-every -1: must be at least 0"),
        ({"weight": math.nan}, "--weight nan: expected a finite number"),
        ({"weight": math.inf}, "--weight inf"),
        ({"arms": ("dispersion=inf",)}, "--weight inf"),
        ({"arms": ("dispersion=much",)}, "'much' is not a number"),
        ({"arms": ("disperson",)}, "did you mean 'dispersion'"),
        ({"arms": ("koleo", "koleo")}, "given twice"),
        ({"arms": ("noisy_embedding=-1",)}, "a number above 0"),
        ({"arms": ("active_forgetting=0.5",)}, "whole number of steps"),
        ({"arms": ("active_forgetting=inf",)}, "whole number of steps"),
        ({"arms": ("cross_entropy=1",)}, "has no value"),
        ({"formulation": "disperson"}, "--formulation 'disperson' is not known: did you mean"),
        ({"layers": "middle"}, "--layers 'middle' is not known"),
        ({"pairs": "partition:x"}, "--pairs partition:x: expected all, moments:ORDER"),
        ({"pairs": "partition:1"}, "a group needs at least 2 tokens"),
        ({"pairs": "all:2"}, "--pairs all:2"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"context": 1}, "--context 1"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
        ({"noisy_embedding": -1.0}, "--noisy-embedding -1.0"),
        ({"active_forgetting": -1}, "--active-forgetting -1"),
        ({"warmup": 2.0}, "--warmup 2.0"),
        ({"clip": 0.0}, "--clip 0.0"),
        ({"vocabulary": 10}, "--vocabulary 10"),
        ({"precision": "float8"}, "--precision 'float8'"),
        ({"report_to": ("wandbb",)}, "did you mean 'wandb'"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
        ({"override": ("x",)}, "NAME=VALUE"),
        ({"init": "gpt2", "n_inner": 3}, "--init goes on from a model as it is"),
    ],
)
def test_what_cannot_be_run_is_told(options, message):
    with pytest.raises(UserError, match=message) as caught:
        replace(CPU, **options).check()
    assert "\n" not in str(caught.value)


def test_a_negative_weight_is_allowed_with_a_warning():
    with pytest.warns(UserWarning, match="the weight -0.1 of dispersion is below 0: the run condenses"):
        replace(CPU, weight=-0.1).check()


def test_layers_and_pairs_as_they_are_written():
    assert parse_layers("early_half") == "early_half"
    assert parse_layers("0,2,-1") == [0, 2, -1]
    assert parse_pairs("moments", 0) == Moments(1)
    assert parse_pairs("subset", 4) == Subset(256, seed=4)
    assert parse_pairs("partition:32:2", 4) == Partition(32, control=2, seed=4)


def test_what_is_recorded_tells_runs_apart():
    arm = CPU.all_arms()[0]
    recorded = CPU.filled(None).recorded(arm, 0)
    json.dumps(recorded)
    moved = replace(CPU, out=Path("elsewhere"), cache=Path("c"), report_to=("wandb",), seeds=4, save_every=3)
    assert moved.filled(None).recorded(arm, 0) == recorded
    for other in (replace(CPU, steps=7), replace(CPU, pairs="moments"), replace(CPU, lora=True)):
        assert other.filled(None).recorded(arm, 0) != recorded
    assert CPU.filled(None).recorded(arm, 1) != recorded
    assert CPU.filled(None).recorded(Arm("dispersion", "dispersion", 0.2), 0) != recorded


@pytest.mark.parametrize(
    "text",
    [
        "cross_entropy",
        "dispersion",
        "dispersion=3",
        "dispersion=-0.5",
        "dispersion=adaptive:0.05",
        "dispersion=0.3:decay:0.5",
        "noisy_embedding",
        "noisy_embedding=7",
        "active_forgetting=50",
    ],
)
def test_what_is_written_of_an_arm_makes_it_again(text):
    arm = parse_arm(text, 0.1, 0.0, 0)
    assert write_arm(arm, ["cross_entropy"], 0.1) == text


def test_an_arm_made_by_other_options_is_written_with_its_value():
    assert write_arm(Arm("dispersion", "dispersion", 3.0), ["cross_entropy"], 0.1) == "dispersion=3"
