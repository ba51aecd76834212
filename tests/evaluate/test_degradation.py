"""What rounding costs each arm: the difference from the model as stored, paired by seed."""

from typing import Any

import pytest

from decondense.evaluate.degradation import compare_arms, compare_spreads, costs
from decondense.evaluate.intervals import mean_interval


def curve(stored: float, four: float | None) -> list[dict[str, Any]]:
    return [
        {"scheme": "stored", "bits": 32, "bits_per_byte": stored},
        {"scheme": "channel", "bits": 4, "bits_per_byte": four},
    ]


def entry(arm: str | None, seed: int, stored: float, four: float | None) -> dict[str, Any]:
    spread = {"weights": {"all": {"kurtosis": 3.0 + seed, "row_max_over_rms": 2.0}}, "inputs": {}}
    spread["hidden_states"] = [{"kurtosis": float(k), "row_max_over_rms": 1.0} for k in (2, 4)]
    about = {} if arm is None else {"arm": arm, "seed": seed}
    return {"model": f"{arm}{seed}", **about, "curve": curve(stored, four), "spread": spread}


def test_the_cost_is_what_is_lost_against_the_model_as_stored() -> None:
    assert costs(curve(2.0, 2.5)) == {("channel", 4): 0.5}
    assert costs(curve(2.0, None)) == {}


def test_arms_are_averaged_over_seeds_and_compared_by_seed() -> None:
    entries = [
        entry("dispersion", 0, 1.0, 1.4),
        entry("cross_entropy", 1, 2.0, 2.8),
        entry("cross_entropy", 0, 2.0, 2.6),
        entry("dispersion", 1, 1.0, 1.5),
    ]
    rows = {row["arm"]: row for row in compare_arms(entries)}
    base, other = rows["cross_entropy"], rows["dispersion"]
    assert base["difference"] is None and base["cost"]["mean"] == pytest.approx(0.7)
    expected = mean_interval([0.4 - 0.6, 0.5 - 0.8])
    assert other["difference"]["mean"] == pytest.approx(expected.mean)
    assert other["difference"]["low"] == pytest.approx(expected.low)
    assert other["seeds"] == [0, 1]


def test_other_seeds_are_not_paired_and_one_seed_has_no_interval() -> None:
    rows = compare_arms([entry("cross_entropy", 0, 2.0, 2.5), entry("dispersion", 1, 1.0, 1.5)])
    assert [row["difference"] for row in rows] == [None, None]
    assert [row["cost"]["low"] for row in rows] == [None, None]


def test_a_setting_without_a_number_at_one_seed_is_not_paired() -> None:
    entries = [entry("cross_entropy", 0, 2.0, 2.5), entry("cross_entropy", 1, 2.0, 2.5)]
    rows = compare_arms([*entries, entry("dispersion", 0, 1.0, 1.5), entry("dispersion", 1, 1.0, None)])
    assert rows[-1]["seeds"] == [0] and rows[-1]["difference"] is None


def test_a_setting_that_the_first_seed_lacks_is_told_of_the_others() -> None:
    rows = compare_arms([entry("a", 0, 1.0, None), entry("a", 1, 1.0, 1.5)])
    assert [(row["scheme"], row["seeds"]) for row in rows] == [("channel", [1])]


def test_models_without_an_arm_are_no_arms() -> None:
    assert compare_arms([entry(None, 0, 1.0, 2.0)]) == compare_spreads([entry(None, 0, 1.0, 2.0)]) == []


def test_spread_is_averaged_over_seeds() -> None:
    rows = compare_spreads([entry("a", 0, 1.0, 2.0), entry("a", 2, 1.0, 2.0)])
    found = {(row["of"], row["statistic"]): row["mean"] for row in rows}
    assert found[("weights", "kurtosis")] == 4.0
    assert found[("hidden_states", "kurtosis")] == 3.0
    assert not any(of == "inputs" for of, _ in found)
