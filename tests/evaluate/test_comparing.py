"""Runs are compared as the numbers in them say, and not at all where they were not made or evaluated alike."""

import json
from pathlib import Path

import numpy
import pytest
import scipy.stats
from run_files import CONFIG, evaluation, training, write

from decondense.errors import UserError
from decondense.evaluate.compared import Comparison, Row
from decondense.evaluate.comparing import compare_runs
from decondense.evaluate.intervals import mean_interval, paired_difference


def row(comparison: Comparison, arm: str, metric: str = "perplexity", task: str = "held-out text") -> Row:
    [found] = [one for one in comparison.rows if (one.arm, one.metric, one.task) == (arm, metric, task)]
    return found


@pytest.fixture
def trained(tmp_path):
    """Two arms of three seeds in a folder: 50, 52, 51 and 48, 51, 50.5."""
    for seed, (one, other) in enumerate(((50.0, 48.0), (52.0, 51.0), (51.0, 50.5))):
        training(tmp_path / f"cross_entropy-seed{seed}", "cross_entropy", seed, one)
        training(tmp_path / f"dispersion-seed{seed}", "dispersion", seed, other)
    return tmp_path


@pytest.fixture
def evaluated(tmp_path):
    """Two arms of four seeds on two tasks of 40 items."""
    random = numpy.random.default_rng(0)
    for seed in range(4):
        for arm, shift in (("cross_entropy", 0.0), ("dispersion", 0.8)):
            tasks = {task: (random.normal(shift, 1.0, 40) > 0).astype(float).tolist() for task in ("piqa", "arc_easy")}
            evaluation(tmp_path / f"{arm}-{seed}", arm, seed, tasks)
    return tmp_path


def test_means_and_paired_differences(trained):
    comparison = compare_runs([trained])
    assert (comparison.baseline, comparison.arms) == ("cross_entropy", ("cross_entropy", "dispersion"))
    baseline, arm = row(comparison, "cross_entropy"), row(comparison, "dispersion")
    assert baseline.difference is None
    assert (arm.seeds, arm.values, arm.direction) == ((0, 1, 2), (48.0, 51.0, 50.5), -1)
    assert arm.estimate == mean_interval([48.0, 51.0, 50.5])
    assert arm.deviation == pytest.approx(numpy.std([48.0, 51.0, 50.5], ddof=1))
    difference = arm.difference
    expected = paired_difference([48.0, 51.0, 50.5], [50.0, 52.0, 51.0])
    assert difference.by_seed == (-2.0, -1.0, -0.5)
    assert (difference.used.mean, difference.used.low, difference.used.high) == (
        expected.mean,
        expected.low,
        expected.high,
    )
    assert difference.used.p == pytest.approx(scipy.stats.ttest_rel([48, 51, 50.5], [50, 52, 51]).pvalue)
    assert (difference.verdict, difference.family, difference.used.over) == ("within noise", 1, "seeds")
    assert difference.seeds_needed > 3
    assert difference.smallest_visible > abs(difference.used.mean)


def test_it_does_not_matter_which_arm_is_the_baseline(trained):
    one = row(compare_runs([trained]), "dispersion").difference
    other = row(compare_runs([trained], baseline="dispersion"), "cross_entropy").difference
    assert other.used.p == pytest.approx(one.used.p)
    assert (other.used.low, other.used.high) == pytest.approx((-one.used.high, -one.used.low))
    assert (other.effect.low, other.effect.high) == pytest.approx((-one.effect.high, -one.effect.low), rel=1e-5)
    assert other.seeds_needed == one.seeds_needed


@pytest.mark.parametrize("metric", ["bits_per_byte", "mean_cosine", "mean_cosine_last"])
def test_other_metrics_are_shown_and_are_not_the_main_one(trained, metric):
    found = row(compare_runs([trained]), "dispersion", metric)
    assert found.role == "shown"
    assert found.direction == (-1 if metric == "bits_per_byte" else 0)
    if metric == "mean_cosine":
        assert found.values == pytest.approx([0.3] * 3)  # the embeddings are no layer
        assert found.difference.verdict == "equal"


def test_a_better_arm_and_a_worse_one(tmp_path):
    for seed in range(4):
        for arm, shift in (("cross_entropy", 0.0), ("good", -5.0), ("bad", 5.0)):
            training(tmp_path / f"{arm}{seed}", arm, seed, 50.0 + seed + shift + 0.1 * (-1) ** seed * (shift != 0))
    verdicts = {one.arm: one.difference.verdict for one in compare_runs([tmp_path], metrics=["perplexity"]).rows[1:]}
    assert verdicts == {"good": "better", "bad": "worse"}


def test_each_kind_of_file_is_read(tmp_path):
    runs = [
        training(tmp_path / "of" / f"{arm}{seed}", arm, seed, 50.0 + seed)
        for arm in ("cross_entropy", "b")
        for seed in (0, 1)
    ]
    write(tmp_path / "several", {"kind": "trainings", "config": {}, "runs": runs})
    arms = [{"name": one["arm"], **one} for one in runs]
    write(tmp_path / "demo", {"kind": "demo", "settings": CONFIG, "arms": arms})
    curve = [
        {"bits": bits, "scheme": "group", "perplexity": 50.0 + bits, "bits_per_byte": 2.0, "bytes": 9}
        for bits in (8, 4)
    ]
    models = [{"model": f"runs/{one['arm']}-seed{one['seed']}/", "curve": curve} for one in runs]
    write(tmp_path / "quantize", {"kind": "quantization", "models": models})
    known = [
        {
            "parameters": 12000,
            "people": 500,
            "exposures": 100,
            "bits_per_parameter": 1.0 + weight + seed,
            "dispersion_weight": weight,
            "seed": seed,
        }
        for weight in (0.0, 0.1)
        for seed in (0, 1)
    ]
    write(tmp_path / "capacity", {"kind": "capacity", "runs": known})
    for name in ("of", "several", "demo"):
        found = row(compare_runs([tmp_path / name]), "b")
        assert (found.seeds, found.values) == ((0, 1), (50.0, 51.0))
    quantized = compare_runs([tmp_path / "quantize" / "results.json"])
    assert row(quantized, "b", task="4 bits, group").values == (54.0, 54.0)
    # The bits of one model are no two tasks.
    assert quantized.ranks is None and not any(one.role == "average" for one in quantized.rows)
    capacity = compare_runs([tmp_path / "capacity"])
    found = row(capacity, "dispersion-0.1", "bits_per_parameter", "500 people, 12,000 parameters, 100 exposures")
    assert (found.direction, found.values) == (1, (1.1, 2.1))


def test_logged_items_are_paired(evaluated):
    comparison = compare_runs([evaluated])
    difference = row(comparison, "dispersion", "acc", "piqa").difference
    assert (list(difference.tests), difference.used.over) == (["seeds", "items", "both"], "both")
    assert difference.tests["items"].mean == pytest.approx(difference.tests["seeds"].mean)
    assert difference.family == 2
    assert difference.adjusted >= difference.used.p
    assert {test: row(compare_runs([evaluated], test=test), "dispersion", "acc", "piqa").difference.used.over for test in ("seeds", "items")} == {
        "seeds": "seeds",
        "items": "items",
    }  # fmt: skip


def test_the_average_over_tasks_is_paired_by_seed_and_item(evaluated):
    comparison = compare_runs([evaluated])
    parts = [row(comparison, "dispersion", "acc", task).values for task in ("piqa", "arc_easy")]
    others = [row(comparison, "cross_entropy", "acc", task).values for task in ("piqa", "arc_easy")]
    average = row(comparison, "dispersion", "acc", "average of 2 tasks")
    assert average.values == pytest.approx(numpy.mean(parts, axis=0).tolist())
    assert (average.role, average.difference.used.over, average.difference.family) == ("average", "both", 1)
    assert average.difference.by_seed == pytest.approx(
        (numpy.mean(parts, axis=0) - numpy.mean(others, axis=0)).tolist()
    )
    assert average.difference.used.mean == pytest.approx(numpy.mean(average.difference.by_seed))
    assert comparison.ranks.tasks == 2
    assert comparison.ranks.average == {"cross_entropy": 2.0, "dispersion": 1.0}


def test_a_group_stands_for_its_tasks(evaluated):
    for path in evaluated.glob("*/results.json"):
        content = json.loads(path.read_text())
        [model] = content["models"]
        tasks = model["tasks"]
        mean = sum(task["metrics"]["acc"]["value"] for task in tasks.values()) / 2
        metrics = {"acc": {"value": mean}, "loss_of_some_kind": {"value": 1.0}}
        better = {"loss_of_some_kind": False}
        tasks["both"] = {
            "version": 1,
            "samples": 80,
            "metrics": metrics,
            "tasks": list(tasks),
            "higher_is_better": better,
        }
        path.write_text(json.dumps(content))
    comparison = compare_runs([evaluated])
    roles = {(one.task, one.metric): (one.role, one.direction) for one in comparison.rows}
    assert roles == {
        ("piqa", "acc"): ("shown", 1),
        ("arc_easy", "acc"): ("shown", 1),
        ("both", "acc"): ("main", 1),
        ("both", "loss_of_some_kind"): ("shown", -1),
    }
    difference = row(comparison, "dispersion", "acc", "both").difference
    assert (difference.used.over, difference.family) == ("both", 1)
    assert difference.used.mean == pytest.approx(numpy.mean(difference.by_seed))


def test_samples_that_do_not_make_the_score_are_not_used(evaluated):
    path = evaluated / "dispersion-0" / "samples.jsonl"
    path.write_text(path.read_text().replace('"acc": 1.0', '"acc": 0.0', 1))
    comparison = compare_runs([evaluated])
    assert any("acc is not the mean of its logged items: compared by seed" in note for note in comparison.notes)
    with pytest.raises(UserError, match="--test both: acc of .* cannot be paired by item .*not the mean"):
        compare_runs([evaluated], test="both")
    path.unlink()
    assert any("logged samples are not there" in note for note in compare_runs([evaluated]).notes)


def test_items_must_be_the_same(evaluated):
    path = evaluated / "dispersion-0" / "samples.jsonl"
    path.write_text(path.read_text().replace('"doc_id": 39', '"doc_id": 99'))
    with pytest.raises(
        UserError,
        match="piqa: the logged samples of dispersion and cross_entropy are not of the same items: item (39|99)",
    ):
        compare_runs([evaluated])
    assert row(compare_runs([evaluated], test="seeds"), "dispersion", "acc", "piqa").difference.used.over == "seeds"


def test_one_seed_has_no_interval(tmp_path):
    evaluation(tmp_path / "a", "cross_entropy", 0, {"piqa": [0.0, 1.0, 1.0]})
    evaluation(tmp_path / "b", "dispersion", 0, {"piqa": [1.0, 1.0, 1.0]})
    found = row(compare_runs([tmp_path]), "dispersion", "acc", "piqa")
    assert (found.estimate.low, found.deviation) == (None, None)
    difference = found.difference
    assert (difference.used.low, difference.used.p, difference.adjusted, difference.effect) == (None,) * 4
    assert difference.verdict == "one seed"


def test_a_summary_is_json(evaluated):
    summary = compare_runs([evaluated]).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_arms_that_differ_in_more_are_told(trained):
    for seed in range(3):
        training(trained / f"dispersion-seed{seed}", "dispersion", seed, 50.0 + seed, learning_rate=0.001)
    [note] = [note for note in compare_runs([trained]).notes if "more than" in note]
    assert note == (
        "cross_entropy and dispersion differ in more than the arm: learning_rate (0.002 and 0.001); what is found may be due to that"
    )


def break_seed(folder: Path) -> None:
    training(folder / "dispersion-seed1", "dispersion", 1, 50.0, learning_rate=0.001)


def break_conditions(folder: Path) -> None:
    for seed in range(3):
        training(folder / f"dispersion-seed{seed}", "dispersion", seed, 50.0, context=64)


def break_number(folder: Path) -> None:
    training(folder / "dispersion-seed1", "dispersion", 1, None)


def give_twice(folder: Path) -> None:
    training(folder / "again", "dispersion", 1, 50.0, learning_rate=0.001)


def leave_unfinished(folder: Path) -> None:
    (folder / "dispersion-seed1" / "results.json").unlink()
    (folder / "dispersion-seed1" / "run.json").write_text("{}")


def lose_a_seed(folder: Path) -> None:
    (folder / "dispersion-seed1" / "results.json").unlink()


def add_a_task(folder: Path) -> None:
    evaluation(folder / "more", "dispersion", 0, {"piqa": [1.0, 0.0]})


def damage(folder: Path) -> None:
    write(folder / "dispersion-seed1", {"kind": "training", "arm": "dispersion"})


def write_no_json(folder: Path) -> None:
    (folder / "dispersion-seed1" / "results.json").write_text("{")


def write_another_kind(folder: Path) -> None:
    write(folder / "other", {"kind": "condensation", "models": []})


def rename_the_baseline(folder: Path) -> None:
    for seed in range(3):
        training(folder / f"cross_entropy-seed{seed}", "plain", seed, 50.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_seed, r"dispersion: its seeds are not runs of one configuration: seeds 0 and 1 differ in learning_rate \(0.002 and 0.001\)"),
        (break_conditions, r"held-out text: cannot be compared: it differs in context \(32 and 64\), between cross_entropy, seed 0"),
        (break_number, "perplexity of dispersion, seed 1, on held-out text is not a finite number: leave the run out"),
        (give_twice, r"dispersion, seed 1, has its perplexity on held-out text twice, .*differ in learning_rate \(0.001 and 0.002\)"),
        (leave_unfinished, "dispersion-seed1: holds a run without results .run.json and no results.json.: run its command again"),
        (lose_a_seed, "cross_entropy has seeds 0, 1, 2; dispersion has seeds 0, 2; --seeds common compares seeds 0, 2"),
        (add_a_task, "dispersion have piqa, cross_entropy do not: --tasks 'held-out text' compares what all have"),
        (damage, "results.json is damaged: KeyError 'config' where a training has its numbers"),
        (write_no_json, "results.json is no JSON"),
        (write_another_kind, "results of the kind 'condensation' have no arms to compare; kinds that do: demo, training"),
        (rename_the_baseline, "no arm is called cross_entropy: name the one to compare with, --baseline ARM, of plain, dispersion"),
    ],
)  # fmt: skip
def test_what_is_not_alike_is_refused(spoil, message, trained):
    spoil(trained)
    with pytest.raises(UserError, match=message):
        compare_runs([trained])


def test_tasks_evaluated_unlike_are_refused(evaluated):
    for name, value in (("version", 2.0), ("shots", 5), ("samples", 20)):
        evaluation(
            evaluated / "dispersion-0", "dispersion", 0, {"piqa": [1.0] * 40, "arc_easy": [1.0] * 40}, **{name: value}
        )
        with pytest.raises(UserError, match=rf"piqa: cannot be compared: it differs in {name} \(.* and {value}\)"):
            compare_runs([evaluated])


def test_seeds_and_tasks_can_be_chosen(trained):
    lose_a_seed(trained)
    add_a_task(trained)
    comparison = compare_runs([trained], seeds=["common"], tasks=["held-out text"], metrics=["bits_per_byte"])
    assert [(one.arm, one.seeds, one.role) for one in comparison.rows] == [
        ("cross_entropy", (0, 2), "main"),
        ("dispersion", (0, 2), "main"),
    ]
    assert row(compare_runs([trained], seeds=["2"], tasks=["held-out text"]), "dispersion").seeds == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ["7"]}, "--seeds 7: cross_entropy has no seed 7 on held-out text, only seeds 0, 1, 2"),
        ({"seeds": ["some"]}, "--seeds some: expected all, common, or whole numbers such as 0 1 2"),
        ({"tasks": ["piqa"]}, "--tasks 'piqa' is not known"),
        ({"metrics": ["perplexiti"]}, "--metrics 'perplexiti' is not known: did you mean 'perplexity'?"),
        ({"baseline": "disp"}, "--baseline 'disp' is not known"),
        ({"test": "item"}, "--test 'item' is not known: did you mean 'items'?"),
        (
            {"test": "items"},
            "--test items: perplexity of held-out text cannot be paired by item .no samples were logged",
        ),
    ],
)
def test_options_that_do_not_fit(options, message, trained):
    with pytest.raises(UserError, match=message):
        compare_runs([trained], **options)


def test_paths_without_results(tmp_path):
    with pytest.raises(UserError, match="nothing: is not there"):
        compare_runs([tmp_path / "nothing"])
    with pytest.raises(UserError, match="holds no results.json, nor does a folder in it"):
        compare_runs([tmp_path])
    write(tmp_path / "empty", {"kind": "evaluation", "models": []})
    with pytest.raises(UserError, match="holds no result yet"):
        compare_runs([tmp_path])


def test_one_arm_is_shown_alone(trained):
    comparison = compare_runs([trained / f"dispersion-seed{seed}" for seed in range(3)])
    assert comparison.baseline == "dispersion"
    assert "dispersion is the only arm: there is nothing to compare it with" in comparison.notes
