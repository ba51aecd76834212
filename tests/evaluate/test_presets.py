"""Sets of benchmarks are replaced by their tasks, and the paper's mean is of ten or is not there."""

from decondense.evaluate.presets import PAPER, PAPER_TEN, SMALL, expand, mean_of_ten


def test_sets_stand_for_their_tasks_and_the_first_to_name_one_decides_its_shots() -> None:
    assert expand(["piqa", "blimp"]) == {"piqa": None, "blimp": None}
    assert list(expand(["small"])) == list(SMALL)
    assert expand(["paper", "small"]) == {**dict.fromkeys(SMALL), **PAPER}
    assert expand(["arc_easy", "paper"])["arc_easy"] is None


def test_the_ten_are_among_what_the_papers_scripts_run() -> None:
    # anli_r2 is one of the three that `anli` stands for.
    assert set(PAPER_TEN) - {"anli_r2"} <= set(PAPER)
    assert len(PAPER_TEN) == 10


def test_the_mean_is_over_all_ten_or_has_no_value() -> None:
    entries = {name: {"metrics": {"acc": {"value": place / 10}}} for place, name in enumerate(PAPER_TEN)}
    whole = mean_of_ten({**entries, "hellaswag": {"metrics": {"acc": {"value": 1.0}}}})
    assert whole is not None
    assert abs(whole["value"] - 0.45) < 1e-12 and whole["missing"] == []
    part = mean_of_ten({name: entry for name, entry in entries.items() if name != "mmlu"})
    assert part is not None
    assert part["value"] is None and part["missing"] == ["mmlu"]
    assert mean_of_ten({"hellaswag": {"metrics": {}}}) is None
