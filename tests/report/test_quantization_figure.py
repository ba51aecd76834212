"""The figure of what rounding costs: a panel a scheme, the numbers beside it as csv."""

import csv
from pathlib import Path

import pytest

from decondense.errors import UserError
from decondense.report.quantization_figure import costs
from decondense.report.series import Series


def test_a_panel_a_scheme_and_every_number_in_the_csv(tmp_path: Path) -> None:
    panels = {
        "channel": [
            Series("cross_entropy", [2, 4, 8], [1.5, 0.1, -0.0004], [1.2, 0.05, -0.002], [1.8, 0.15, 0.001]),
            Series("dispersion", [2, 4, 8], [0.7, 0.05, 0.0001]),
        ],
        "group64": [Series("cross_entropy", [4], [0.02]), Series("dispersion", [4], [0.01])],
    }
    written = costs(panels, tmp_path / "costs", ("png", "svg"), "lost")
    assert [path.name for path in written] == ["costs.png", "costs.svg", "costs.csv"]
    rows = list(csv.DictReader((tmp_path / "costs.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert rows[0] == {
        "scheme": "channel",
        "series": "cross_entropy",
        "bits": "2.0",
        "cost": "1.5",
        "low": "1.2",
        "high": "1.8",
    }
    assert rows[-1]["scheme"] == "group64" and rows[-1]["low"] == ""


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cost to draw"):
        costs({}, tmp_path / "costs")
    assert list(tmp_path.iterdir()) == []
