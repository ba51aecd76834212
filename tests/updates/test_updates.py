"""Every way to train the same sixteen sequences makes the update of the formula written by hand; the mistakes do not."""

import json
import runpy

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from updates.cases import ROWS, Case, chosen
from updates.limits import TOLERANCE, is_mistake, limit
from updates.ranks import Failed, run
from updates.reference import difference, reference

QUICK = [case for processes in (1, 2) for case in chosen(processes, quick=True)]


@pytest.fixture(scope="module")
def found_by(tmp_path_factory):
    """What so many processes found; they start once."""
    together = {}

    def find(processes):
        if processes not in together:
            try:
                folder = tmp_path_factory.mktemp(f"processes{processes}")
                together[processes] = run(chosen(processes, quick=True), processes, folder)
            except Failed as error:
                together[processes] = error
        return together[processes]

    return find


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_the_update_is_that_of_the_formula(found_by, case):
    if case.processes > 1 and not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    found = found_by(case.processes)
    if isinstance(found, Failed):
        if case == found.case:
            raise found
        if case not in found.found:
            pytest.fail(f"not run, because of {found.case}: its test says why")
        found = found.found
    allowed = limit(case, found)
    if allowed is not None:
        assert found[case] <= allowed
    elif is_mistake(case):
        # A test that could not tell the mistakes would be none.
        assert found[case] > 1000 * TOLERANCE
    else:
        assert found[case] > TOLERANCE, "this was not computed in bfloat16"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_tolerance_leaves_room_for_rounding_alone(name):
    """The reference is itself rounded: 1e-6 from what it is in float64."""
    assert difference(reference(name), reference(name, dtype=torch.float64)) < TOLERANCE / 5


def test_every_row_has_cases_and_no_two_are_the_same():
    cases = [case for row in ROWS for case in row.cases()]
    assert len(set(cases)) == len(cases)
    assert all(list(row.cases()) for row in ROWS)
    assert {case.batch for case in cases} == {1, 2, 4, 8, 16}


def test_what_fails_on_a_rank_is_told_with_its_traceback(tmp_path):
    good, bad = Case(how="by hand"), Case(checkpointing="off", model="no such model", how="by hand")
    with pytest.raises(Failed, match="no such model") as error:
        run([good, bad], 1, tmp_path)
    assert error.value.case == bad
    assert error.value.found == {good: 0.0}
    assert "in build" in str(error.value)


def test_what_hangs_ends_and_tells_where(tmp_path):
    case = Case(how="by hand")
    with pytest.raises(Failed, match=r"Timeout \(0:00:00.05") as error:
        run([case], 1, tmp_path, seconds=0.05)  # building the model takes longer
    assert error.value.case == case
    assert "in change" in str(error.value)


def test_the_table_of_the_docs_is_of_this_matrix(root):
    rows = json.loads((root / "results" / "updates.json").read_text(encoding="utf-8"))["rows"]
    cases = [(row.group, row.name, case) for row in ROWS for case in row.cases()]
    keys = ("model", "processes", "batch", "accumulation")
    assert [(row["group"], row["name"], *(row[key] for key in keys)) for row in rows] == [
        (group, name, *(getattr(case, key) for key in keys)) for group, name, case in cases
    ]
    hooks = runpy.run_path(str(root / "docs" / "hooks.py"))
    page = hooks["on_page_markdown"]((root / "docs" / "updates.md").read_text(encoding="utf-8"))
    assert "<!--" not in page
    assert all(f"| {row.name} |" in page for row in ROWS if "_" not in row.name)
