"""Statistics of all layers in, the result of a measurement out: fields, file, merge. Knows neither models nor texts."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from decondense.errors import UserError, require
from decondense.files import plain, replace_file
from decondense.geometry.metrics import METRICS, bootstrap_interval, rank_correlation
from decondense.geometry.statistics import HISTOGRAM_BINS, LayerStatistics, histogram_of_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]
else:
    # numpy is imported where it is used: `import decondense` needs torch alone.
    FloatArray = IntArray = Any

FORMAT = "decondense.condensation"
FORMAT_VERSION = 1
_TEXT_METRICS = "text_metrics/"

# What zipfile, numpy and json raise where bytes of an archive are wrong.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False, repr=False)
class Condensation:
    """How condensed a model's token embeddings are, layer by layer. `decondense.measure` makes it.

    Layers are the entries of transformers' `hidden_states`: the embeddings, then each block, the last one after the
    final norm. A value of a layer is computed for each text and then averaged over texts.

    Attributes:
        model: the name of the model.
        max_length: the number of tokens after which texts were cut.
        tokens: int64 [texts], the number of tokens of each text.
        text_metrics: for each metric by name, float64 [texts, layers].
        pair_counts: int64 [layers, 128], or None where the histogram was not measured.
        matrix_sums: float64 [layers, N (N + 1) / 2], upper triangles of the cosine matrices summed over texts; None
            where texts differ in their number of tokens, hold more than `geometry.statistics.MATRIX_TOKENS`, or it was
            not measured.
        seed: of the bootstrap's resamples.
    """

    model: str
    max_length: int
    tokens: IntArray
    text_metrics: Mapping[str, FloatArray]
    pair_counts: IntArray | None = None
    matrix_sums: FloatArray | None = None
    seed: int = 0

    @classmethod
    def from_statistics(
        cls,
        statistics: Sequence[LayerStatistics],
        metrics: Iterable[str],
        model: str,
        max_length: int,
        order: Sequence[int] | None = None,
        seed: int = 0,
    ) -> Condensation:
        """Finish the statistics of each layer.

        Args:
            statistics: one a layer, all of the same texts.
            metrics: names of `decondense.geometry.METRICS`. Both mean cosines are there in any case.
            model: a name for the model.
            max_length: the number of tokens after which texts were cut.
            order: the place in the result of each text, in the order in which texts were seen; None: as they were seen.
            seed: of the bootstrap's resamples.
        """
        names = dict.fromkeys(("mean_cosine", "mean_cosine_off_diagonal", *metrics))
        sums = [layer.texts() for layer in statistics]
        place = slice(None) if order is None else torch.tensor(order).argsort().numpy()
        text_metrics = {
            name: torch.stack([of_texts(layer) for layer in sums], dim=1).numpy()[place]
            for name in names
            if (of_texts := METRICS[name].of_texts) is not None
        }
        counts = [found for layer in statistics if (found := layer.histogram()) is not None]
        matrices = [found for layer in statistics if (found := layer.matrix_sum()) is not None]
        return cls(
            model=model,
            max_length=max_length,
            tokens=sums[0].tokens.to(torch.int64).numpy()[place],
            text_metrics=text_metrics,
            pair_counts=torch.stack(counts).numpy() if counts else None,
            matrix_sums=torch.stack(matrices).numpy() if matrices else None,
            seed=seed,
        )

    def __repr__(self) -> str:
        means = ", ".join(f"{value:.3f}" for value in self.mean_cosine)
        return f"Condensation({self.model!r}, {self.samples} texts, mean_cosine=[{means}])"

    @property
    def samples(self) -> int:
        """The number of texts."""
        return len(self.tokens)

    @property
    def layers(self) -> int:
        """The number of layers, the embeddings included."""
        return self.per_text.shape[1]

    @property
    def per_text(self) -> FloatArray:
        """Mean cosine, diagonal included: float64 [texts, layers]."""
        return self.text_metrics["mean_cosine"]

    @property
    def per_text_off_diagonal(self) -> FloatArray:
        """Mean cosine of different tokens: float64 [texts, layers]."""
        return self.text_metrics["mean_cosine_off_diagonal"]

    @cached_property
    def metrics(self) -> dict[str, FloatArray]:
        """Each metric of single texts, averaged over texts: float64 [layers]; NaN where a text has none."""
        return {name: values.mean(axis=0) for name, values in self.text_metrics.items()}

    @property
    def mean_cosine(self) -> FloatArray:
        """The paper's layer means, diagonal included: float64 [layers]."""
        return self.metrics["mean_cosine"]

    @property
    def mean_cosine_off_diagonal(self) -> FloatArray:
        """Layer means of the cosines of different tokens: float64 [layers]."""
        return self.metrics["mean_cosine_off_diagonal"]

    @cached_property
    def mean_cosine_interval(self) -> FloatArray:
        """95 % bootstrap interval of `mean_cosine` over texts: float64 [layers, 2]; NaN for one text."""
        return self.interval("mean_cosine")

    def interval(self, metric: str) -> FloatArray:
        """95 % bootstrap interval over texts of a metric in `metrics`: float64 [layers, 2]; NaN for one text."""
        if metric not in self.text_metrics:
            raise UserError(f"no interval of {metric!r}: measured text by text were {', '.join(self.text_metrics)}")
        return bootstrap_interval(torch.tensor(self.text_metrics[metric]), self.seed).numpy()

    @cached_property
    def spearman(self) -> float:
        """Rank correlation rho of `mean_cosine` with the layer's index; NaN for one layer or where all are equal."""
        return rank_correlation("spearman", torch.from_numpy(self.mean_cosine))

    @cached_property
    def kendall(self) -> float:
        """Rank correlation tau of `mean_cosine` with the layer's index; NaN for one layer or where all are equal."""
        return rank_correlation("kendall", torch.from_numpy(self.mean_cosine))

    @property
    def last_n(self) -> FloatArray:
        """The mean of `mean_cosine` over the last n layers, for n = 1 ... layers: float64 [layers]."""
        return self.mean_cosine[::-1].cumsum() / range(1, self.layers + 1)

    @property
    def histogram(self) -> IntArray:
        """Cosines of all pairs of all texts, diagonal included, in 128 bins on [-1, 1]: int64 [layers, 128].

        Raises UserError where it was not measured.
        """
        if self.pair_counts is None:
            raise UserError('the histogram was not measured: ask for it with metrics="paper", "all", or ["histogram"]')
        return self.pair_counts

    @cached_property
    def histogram_of_mean(self) -> IntArray | None:
        """The authors' histogram, of the averaged matrix: int64 [layers, 128]; None where `matrix_sums` is."""
        if self.matrix_sums is None:
            return None
        rows = [histogram_of_mean(torch.from_numpy(row), self.samples) for row in self.matrix_sums]
        return torch.stack(rows).numpy()

    def summary(self) -> dict[str, Any]:
        """One entry of "models" in `results.json`: plain lists and numbers, None in place of NaN."""
        return {
            "model": self.model,
            "mean_cosine": plain(self.mean_cosine),
            "mean_cosine_off_diagonal": plain(self.mean_cosine_off_diagonal),
            "mean_cosine_interval": plain(self.mean_cosine_interval),
            "spearman": plain(self.spearman),
            "kendall": plain(self.kendall),
            "samples": self.samples,
            "tokens": int(self.tokens.sum()),
        }

    def merge(self, other: Condensation) -> Condensation:
        """What measuring the texts of `self` and then those of `other` at once would have given.

        Raises:
            UserError: the two are of different models, layers, lengths or metrics.
        """
        for what in ("model", "layers", "max_length"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise UserError(
                    f"cannot merge {what}={mine!r} with {what}={theirs!r}: only parts of one measurement add up"
                )
        mine, theirs = (", ".join(sorted(part._measured())) for part in (self, other))
        if mine != theirs:
            raise UserError(f"cannot merge metrics {mine} with {theirs}: measure both parts with the same metrics")
        first, second = self.matrix_sums, other.matrix_sums
        matrices = None
        if first is not None and second is not None and first.shape == second.shape:
            matrices = first + second
        np = require("numpy", extra="hf")
        return Condensation(
            model=self.model,
            max_length=self.max_length,
            tokens=np.concatenate([self.tokens, other.tokens]),
            text_metrics={
                name: np.concatenate([values, other.text_metrics[name]]) for name, values in self.text_metrics.items()
            },
            pair_counts=None if self.pair_counts is None else self.histogram + other.histogram,
            matrix_sums=matrices,
            seed=self.seed,
        )

    def _measured(self) -> list[str]:
        return [*self.text_metrics, *(["histogram"] if self.pair_counts is not None else [])]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one `.npz` file (no pickle in it), all of it or nothing. `Condensation.load` reads it."""
        np = require("numpy", extra="hf")
        arrays = {"tokens": self.tokens, **{_TEXT_METRICS + name: values for name, values in self.text_metrics.items()}}
        if self.pair_counts is not None:
            arrays["pair_counts"] = self.pair_counts
        if self.matrix_sums is not None:
            arrays["matrix_sums"] = self.matrix_sums
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "model": self.model,
            "max_length": self.max_length,
            "seed": self.seed,
            "arrays": list(arrays),
        }
        try:
            # Given an open file, numpy leaves the name as it is.
            with replace_file(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, header=np.array(json.dumps(header)), **arrays)
        except OSError as error:
            raise UserError(
                f"{path}: cannot write there ({error.strerror}); give a path in a folder that is writable"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Condensation:
        """Read what `save` wrote.

        Raises:
            UserError: the file is absent, damaged, of another kind, or written by a later version.
        """
        np = require("numpy", extra="hf")
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                header = json.loads(str(archive["header"]))
                arrays = {name: archive[name] for name in archive.files if name != "header"}
            if header["format"] != FORMAT:
                raise KeyError("format")
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; Condensation.save writes one") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        except _DAMAGE as error:
            raise UserError(f"{path}: damaged, or not a file that Condensation.save wrote") from error
        if header.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: its format is version {header.get('version')}, this decondense reads {FORMAT_VERSION}; "
                "install the decondense that wrote it"
            )
        try:
            if list(arrays) != header["arrays"]:
                raise KeyError("arrays")
            result = cls(
                model=header["model"],
                max_length=header["max_length"],
                tokens=arrays["tokens"],
                text_metrics={
                    name.removeprefix(_TEXT_METRICS): values
                    for name, values in arrays.items()
                    if name.startswith(_TEXT_METRICS)
                },
                pair_counts=arrays.get("pair_counts"),
                matrix_sums=arrays.get("matrix_sums"),
                seed=header["seed"],
            )
            result._check()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{path}: damaged: its parts do not fit together") from error
        return result

    def _check(self) -> None:
        """Raise ValueError where the arrays do not fit one another."""
        shape = (self.samples, self.layers)
        fits = (
            self.tokens.ndim == 1
            and self.tokens.dtype == "int64"
            and "mean_cosine_off_diagonal" in self.text_metrics
            and all(values.shape == shape and values.dtype == "float64" for values in self.text_metrics.values())
            and (self.pair_counts is None or self.pair_counts.shape == (self.layers, HISTOGRAM_BINS))
            and (self.matrix_sums is None or self.matrix_sums.shape == (self.layers, self._matrix_entries()))
        )
        if not fits:
            raise ValueError("arrays of different measurements")

    def _matrix_entries(self) -> int:
        return int(self.tokens[0] * (self.tokens[0] + 1) // 2)
