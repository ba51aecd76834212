"""Numbers in, pictures, tables and one page out: the report's public names. Must not know how numbers are measured."""

from decondense.errors import require

require("numpy", extra="report")  # first, so that its absence names the extra that brings it

from decondense.report.figures import curves, heatmaps, trajectory  # noqa: E402
from decondense.report.matrix_figures import positions, similarity  # noqa: E402
from decondense.report.model_figures import family, layer_lines, paired, revisions, texts_grid  # noqa: E402
from decondense.report.model_tables import last_n_table  # noqa: E402
from decondense.report.series import Series, Trajectory  # noqa: E402

__all__ = [
    "Series",
    "Trajectory",
    "curves",
    "family",
    "heatmaps",
    "last_n_table",
    "layer_lines",
    "paired",
    "positions",
    "revisions",
    "similarity",
    "texts_grid",
    "trajectory",
]
