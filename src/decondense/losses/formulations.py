"""The table of formulations: every row by its name. Tests, docs, benchmarks and the command line read the rows from here."""

from __future__ import annotations

from decondense.losses.pair_rows import PAIR_ROWS
from decondense.losses.row import Formulation, Settings
from decondense.losses.whole_rows import WHOLE_ROWS

__all__ = ["FORMULATIONS", "Formulation", "Settings"]

FORMULATIONS: dict[str, Formulation] = {row.name: row for row in (*PAIR_ROWS, *WHOLE_ROWS)}
