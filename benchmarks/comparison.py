"""`python benchmarks/comparison.py`: how often `decondense compare` finds what is not there, and what is, at 3, 5, 9 and 20 seeds.

Studies of ten tasks are made up and given to the tests of `decondense.evaluate.significance`, which the command uses: without any effect, and
with one. A number a task and seed is normal. An item of a task is right where ability + difficulty + chance is above 0; seeds of an arm may differ in
their ability, and arms in what they are good at. Writes results/compare-simulation.json, which docs/compare.md shows.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import stats

from decondense.evaluate.significance import ALPHA, holm, over_both, over_items, over_seeds, power
from decondense.files import write_json
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance

SEEDS = (3, 5, 9, 20)
TASKS = 10
Array = NDArray[numpy.float64]


@dataclass(frozen=True)
class Scenario:
    """What is true of the arms that are made up.

    Attributes:
        name: of the scenario.
        level: "seeds": a number a seed; "items": so many logged items.
        effect: of the arm: in standard deviations of the differences over seeds; for items, added to the latent ability.
        heavy: whether differences have the tails of t with 3 degrees of freedom: now and then a seed is far off.
        seeds_differ: standard deviation of a seed's latent ability (a chance deviate of an item has 1, difficulties 1.5).
        arms_differ: standard deviation over items of what one arm is better at; its mean over items is `effect`.
        items: of a task.
    """

    name: str
    level: str
    effect: float = 0.0
    heavy: bool = False
    seeds_differ: float = 0.0
    arms_differ: float = 0.0
    items: int = 500


SCENARIOS = (
    Scenario("no effect", "seeds"),
    Scenario("no effect, heavy tails", "seeds", heavy=True),
    Scenario("effect of 1 standard deviation", "seeds", effect=1.0),
    Scenario("effect of 2 standard deviations", "seeds", effect=2.0),
    Scenario("items: no effect, models differ by chance alone", "items"),
    Scenario("items: no effect, seeds differ in ability", "items", seeds_differ=0.1),
    Scenario("items: no effect, arms are good at different items", "items", arms_differ=0.5),
    Scenario("items: no effect, both", "items", seeds_differ=0.1, arms_differ=0.5),
    Scenario("items: effect, both", "items", effect=0.2, seeds_differ=0.1, arms_differ=0.5),
)


def study(scenario: Scenario, seeds: int, random: numpy.random.Generator) -> Array:
    """Differences of one study: [tasks, seeds], or [tasks, seeds, items]."""
    if scenario.level == "seeds":
        size = (TASKS, seeds)
        noise = random.standard_t(3, size) if scenario.heavy else random.standard_normal(size)
        return noise + scenario.effect

    def normal(*shape: int) -> NDArray[numpy.float32]:
        return random.standard_normal(shape, dtype=numpy.float32)

    difficulty = 1.5 * normal(TASKS, 1, scenario.items)
    own = scenario.effect + scenario.arms_differ * normal(TASKS, 1, scenario.items)
    right = [
        difficulty + shift + scenario.seeds_differ * normal(TASKS, seeds, 1) + normal(TASKS, seeds, scenario.items) > 0
        for shift in (0.0, own)
    ]
    return right[1].astype(numpy.float64) - right[0].astype(numpy.float64)


def p_values(scenario: Scenario, differences: Array) -> dict[str, list[float]]:
    """Of each test that the data allow, one p-value a task; and that of the average of the tasks, by the test that compare takes."""
    by_seed = differences if scenario.level == "seeds" else differences.mean(axis=2)
    found = {"seeds": [over_seeds(row.tolist()).p for row in by_seed]}
    if scenario.level == "items":
        found["items"] = [over_items(matrix).p for matrix in differences]
        found["both"] = [over_both(matrix).p for matrix in differences]
        found["both, Satterthwaite"] = [satterthwaite(matrix) for matrix in differences]
    average = over_seeds(by_seed.mean(axis=0).tolist()) if scenario.level == "seeds" else over_both(*differences)
    found["average"] = [average.p]
    # Differences without spread are no finding.
    return {test: [1.0 if p is None else p for p in values] for test, values in found.items()}


def satterthwaite(matrix: Array) -> float:
    """The usual p-value of the test over both, which compare does not take: t with degrees of freedom by Satterthwaite (1946)."""
    seeds, items = matrix.shape
    mean, rows, columns = matrix.mean(), matrix.mean(axis=1), matrix.mean(axis=0)
    of_seeds, of_items = rows.var(ddof=1) / seeds, columns.var(ddof=1) / items
    rest = ((matrix - rows[:, None] - columns + mean) ** 2).sum() / ((seeds - 1) * (items - 1)) / matrix.size
    variance, freedom = of_seeds + max(of_items - rest, 0.0), float(seeds - 1)
    if of_items > rest:
        noise = of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1) + rest**2 / ((seeds - 1) * (items - 1))
        freedom = max(freedom, variance**2 / noise)
    return 2 * float(stats.t.sf(abs(mean) / math.sqrt(variance), freedom)) if variance > 0 else 1.0


def simulate(scenario: Scenario, seeds: int, studies: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each test: how often a task is found, and how often any of ten, without and with Holm's correction."""
    random = numpy.random.default_rng([seed, SCENARIOS.index(scenario), seeds])
    counts: dict[str, list[list[float]]] = {}
    shift = 0.0
    for _ in range(studies):
        differences = study(scenario, seeds, random)
        shift += float(differences.mean()) / studies
        for test, found in p_values(scenario, differences).items():
            plain = [p < ALPHA for p in found]
            corrected = [p is not None and p < ALPHA for p in holm(found)]
            row = [sum(plain) / len(found), any(plain), sum(corrected) / len(found), any(corrected)]
            counts.setdefault(test, []).append([float(value) for value in row])
    names = ("found", "any_found", "found_corrected", "any_found_corrected")
    for test, rows in counts.items():
        shares = numpy.mean(rows, axis=0).tolist()
        # Of the share over studies, each of which is an independent draw.
        errors = (numpy.std(rows, axis=0, ddof=1) / math.sqrt(studies)).tolist()
        numbers = dict(zip(names, shares, strict=True)) | {
            f"{name}_error": error for name, error in zip(names, errors, strict=True)
        }
        yield {
            "scenario": scenario.name,
            "level": scenario.level,
            "test": test,
            "seeds": seeds,
            "difference": shift,
        } | numbers


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Shares by scenario, test and number of seeds."""
    cells: list[list[str]] = []
    for scenario, test in dict.fromkeys((row["scenario"], row["test"]) for row in rows):
        chosen = [row for row in rows if (row["scenario"], row["test"]) == (scenario, test)]
        cells.append([scenario, test, "a task", *(f"{row['found']:.1%}" for row in chosen)])
        if test != "average":
            cells.append([scenario, test, "any of ten, Holm", *(f"{row['any_found_corrected']:.1%}" for row in chosen)])
    columns = [Column(name, align="left") for name in ("scenario", "test", "found")]
    return Table([*columns, *(Column(f"{seeds} seeds", align="right") for seeds in SEEDS)], cells).plain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument(
        "--studies", type=int, default=2000, help="of each scenario with a number a seed; a fifth with items"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    origin, started = provenance(), time.perf_counter()
    rows = []
    for scenario in SCENARIOS:
        studies = arguments.studies if scenario.level == "seeds" else max(arguments.studies // 5, 2)
        for seeds in SEEDS:
            rows += [{**row, "studies": studies} for row in simulate(scenario, seeds, studies, arguments.seed)]
        print(f"{scenario.name} ({scenario.level}): {time.perf_counter() - started:.0f} s", flush=True)
    print(table(rows))
    command = f"python benchmarks/comparison.py --studies {arguments.studies} --seed {arguments.seed}"
    theory = {f"{effect:g}": [power(effect, seeds) for seeds in SEEDS] for effect in (1.0, 2.0)}
    content = {"study": "compare-simulation", "command": command, **origin, "seed": arguments.seed, "tasks": TASKS}
    content |= {"scenarios": [asdict(one) for one in SCENARIOS], "power_by_formula": theory, "rows": rows}
    write_json(arguments.results / "compare-simulation.json", content)
    print(f"\n{arguments.results / 'compare-simulation.json'}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
