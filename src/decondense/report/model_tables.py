"""Measured models in, tables of their numbers out. Must not know whether they are printed or drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from decondense.errors import UserError
from decondense.report.series import LayerMeans
from decondense.report.tables import Cell, Column, Table


def last_n_table(results: Sequence[LayerMeans], titles: Sequence[str]) -> Table:
    """Return the mean cosine over the last n layers, a row for each n and a column for each model.

    For n = 1 it is that of the last layer, for n = all layers the mean of all; a model with fewer layers than n has an
    empty cell.

    Args:
        results: the measured models; their histograms are not needed.
        titles: a heading for each.

    Raises:
        UserError: where there is no result, not one title for each, or a result without a layer.
    """
    if not results or len(results) != len(titles):
        raise UserError(
            f"one title for each result expected and at least one of them, given {len(results)} and {len(titles)}"
        )
    columns: list[list[float]] = []
    for result, title in zip(results, titles, strict=True):
        means = numpy.asarray(result.mean_cosine, dtype=numpy.float64)
        if means.ndim != 1 or len(means) == 0:
            raise UserError(f"{title}: a mean cosine for each layer expected, given shape {list(means.shape)}")
        columns.append((means[::-1].cumsum() / numpy.arange(1, len(means) + 1)).tolist())
    rows: list[list[Cell]] = [
        [n + 1, *(column[n] if n < len(column) else None for column in columns)] for n in range(max(map(len, columns)))
    ]
    return Table([Column("last n layers"), *(Column(title, ".3f", align="right") for title in titles)], rows)
