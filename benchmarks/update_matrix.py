"""`python benchmarks/update_matrix.py`: every way to train the same sixteen sequences, and how far its update is from the formula written by hand.

The matrix is that of tests/updates, all of it: the tests run a part. Writes results/updates.json, after each group of processes what is known by
then; docs/updates.md shows it. Run again it goes on with what is missing, as long as decondense and the matrix are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from updates.cases import ROWS, Case
from updates.limits import TOLERANCE, is_mistake, limit
from updates.ranks import Failed, run

from decondense.files import write_json
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
CASE_SECONDS = 1200
"""Far more than compiling takes, on a machine that does much else too."""

Outcome = dict[Case, float | str]
"""The difference of a case, or why there is none."""


def groups(known: Outcome) -> list[list[Case]]:
    """The cases that are not known, as they run together in the same processes; each that compiles is a group, and comes last."""
    left = [case for row in ROWS for case in row.cases() if case not in known]
    plain = [[case for case in left if case.compiled == "off" and case.processes == count] for count in (1, 2, 4)]
    return [group for group in plain if group] + [[case] for case in left if case.compiled != "off"]


def sources() -> str:
    """A digest of all that the numbers depend on here."""
    matrix = [ROOT / "tests" / "updates" / f"{name}.py" for name in ("cases", "reference", "ways")]
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "src").rglob("*.py"), *matrix]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def earlier(path: Path, origin: dict[str, Any]) -> Outcome:
    """The differences in the file, where it is of the same sources and versions."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if any(content.get(key) != origin[key] for key in ("sources", "torch", "transformers", "accelerate")):
        return {}
    cases = [case for row in ROWS for case in row.cases()]
    found = zip(cases, content["rows"], strict=True)
    return {case: row["relative_difference"] for case, row in found if row["relative_difference"] is not None}


def measure(cases: Sequence[Case]) -> Outcome:
    """A case that fails is left out and told, the others go on without it."""
    found: Outcome = {}
    left = list(cases)
    while left:
        try:
            with tempfile.TemporaryDirectory() as folder:
                found |= run(left, left[0].processes, Path(folder), tell=True, seconds=CASE_SECONDS)
        except Failed as error:
            print(error, file=sys.stderr, flush=True)
            told = [line for line in str(error).splitlines() if line.strip()]
            found |= error.found
            found[error.case] = f"failed: {told[-1].strip()}"
        left = [case for case in left if case not in found]
    return found


def tabulate(found: Outcome) -> list[dict[str, Any]]:
    """A row for each case, in the order of the matrix."""
    differences = {case: value for case, value in found.items() if isinstance(value, float)}
    rows = []
    for row in ROWS:
        for case in row.cases():
            outcome = found.get(case, "not run: the script was stopped before it")
            rows.append(
                {
                    "group": row.group,
                    "name": row.name,
                    "model": case.model,
                    "processes": case.processes,
                    "batch": case.batch,
                    "accumulation": case.accumulation,
                    "relative_difference": differences.get(case),
                    "limit": limit(case, differences),
                    "mistake": is_mistake(case),
                    "not_run": outcome if isinstance(outcome, str) else None,
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    columns: list[Column | str] = [Column("way", align="left"), "model", "processes", "batch", "accumulation"]
    columns += [Column("difference", ".1e"), Column("limit", ".1e"), Column("why not", align="left")]
    keys = ("model", "processes", "batch", "accumulation", "relative_difference", "limit", "not_run")
    return Table(columns, [[f"{row['group']}: {row['name']}", *(row[key] for key in keys)] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of updates.json")
    arguments = parser.parse_args()
    packages = {name: version(name) for name in ("transformers", "accelerate")}
    origin = {
        "study": "updates",
        "command": "python benchmarks/update_matrix.py",
        **provenance(),
        **packages,
        "sources": sources(),
    }
    path = arguments.results / "updates.json"
    found = earlier(path, origin)
    for cases in groups(found):
        found |= measure(cases)
        write_json(path, {**origin, "tolerance": TOLERANCE, "rows": tabulate(found)})
    rows = tabulate(found)
    print(table(rows).plain())
    wrong = [row for row in rows if row["limit"] is not None and not (row["relative_difference"] or 0) <= row["limit"]]
    near = [row for row in rows if row["mistake"] and (row["relative_difference"] or 1) <= TOLERANCE]
    missing = [row for row in rows if row["not_run"]]
    print(
        f"\n{len(rows)} updates: {len(wrong)} beyond their limit, {len(near)} mistakes not told, {len(missing)} not run"
    )
    sys.exit(1 if wrong or near else 0)


if __name__ == "__main__":
    main()
