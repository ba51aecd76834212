"""Hidden states of one layer in, additive sums over texts out. Knows tensors only, neither models nor metrics.

Everything here adds up: over tokens, over texts, over batches, over processes. Memory does not grow with the number of
texts but for a few float64 numbers a text.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.geometry.causes import Marks, add_totals, find_causes
from decondense.geometry.sample import TokenSample
from decondense.shapes import Bool, Float, Int

HISTOGRAM_BINS = 128
"""Bins on [-1, 1], as in the paper's figures. At most 256, since a bin's number is held in one byte."""

MATRIX_TOKENS = 1024
"""Longest text whose averaged cosine matrix is kept: 8 MiB a layer. The paper measures at 512."""


class NotFinite(UserError):
    """A hidden state holds NaN or infinity. `row` is the first row of the batch that does."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} of the batch holds NaN, infinity, or a vector so long that its square overflows")
        self.row = row


class TextSums(NamedTuple):
    """The sums of one layer from which the metrics of each text are finished, all [texts] float64. u are its unit vectors, c_ij = u_i . u_j.

    What was not asked for (see `LayerStatistics`) is None.

    Attributes:
        tokens: N, the number of real tokens.
        resultant: ||sum_i u_i||^2 = sum of all c_ij.
        norms: sum_i ||u_i||^2 = N minus the number of zero vectors = the trace of the cosine matrix.
        squares: sum of all c_ij^2 = ||U^T U||_F^2.
        closeness: sum of exp(-2 ||u_i - u_j||^2) = exp(4 c_ij - 4) over i != j.
        total_length: sum_i ||x_i|| of the vectors as they are.
        total_square: sum_i ||x_i||^2.
        longest: max_i ||x_i||.
        mean_square: ||sum_i x_i||^2 / N^2, of the mean vector.
        rogue: share of the resultant that its largest `causes.ROGUE` features carry.
        without_rogue, without_sinks, without_frequent, without_repeats: mean cosine over i != j after removing these (see `causes`).
    """

    tokens: Tensor
    resultant: Tensor
    norms: Tensor
    squares: Tensor | None = None
    closeness: Tensor | None = None
    total_length: Tensor | None = None
    total_square: Tensor | None = None
    longest: Tensor | None = None
    mean_square: Tensor | None = None
    rogue: Tensor | None = None
    without_rogue: Tensor | None = None
    without_sinks: Tensor | None = None
    without_frequent: Tensor | None = None
    without_repeats: Tensor | None = None


class LayerStatistics:
    """Collects one layer's geometry over any number of texts, one batch at a time.

    Args:
        pairs: count the cosines of all pairs of tokens.
        matrix: add up the cosine matrices, while all texts have one number of tokens, at most `MATRIX_TOKENS`.
        squares: add up the squared cosines of each text.
        closeness: add up exp(-2 ||u_i - u_j||^2) of each text.
        lengths: add up the lengths of the vectors.
        causes: look for what carries the mean cosine (`geometry.causes`); `update` needs `marks` then.
        sample: keep this many tokens, those whose keys are smallest (`marks`, else in the order seen).

    Without pairs, matrix, squares and closeness a text of N tokens costs O(N F); otherwise half of the N x N Gram matrix, computed in strips.
    float16 and bfloat16 are measured in float32, float32 and float64 as they are; what is summed over texts is float64.
    Where TF32 is allowed on a GPU, histograms and squares have its precision (1e-3); the mean cosines do not use it.

    >>> statistics = LayerStatistics()
    >>> statistics.update(torch.eye(4)[None])
    >>> statistics.texts().resultant / 4**2
    tensor([0.2500], dtype=torch.float64)
    >>> histogram = statistics.histogram()
    >>> int(histogram[64]), int(histogram[127])
    (12, 4)
    """

    def __init__(
        self,
        pairs: bool = True,
        matrix: bool = True,
        squares: bool = False,
        closeness: bool = False,
        lengths: bool = False,
        causes: bool = False,
        sample: int = 0,
    ) -> None:
        self.pairs, self.squares, self.closeness, self.lengths = pairs, squares, closeness, lengths
        self.causes = causes
        self.sample = TokenSample(sample)
        self._matrix_wanted = matrix
        self._matrix: Tensor | None = None
        self._texts: list[TextSums] = []
        # Sums over texts by name, which merge by adding up: the histogram, and what `causes` adds.
        self._totals: dict[str, Tensor] = {}

    @property
    def samples(self) -> int:
        """The number of texts seen so far."""
        return sum(len(sums.tokens) for sums in self._texts)

    @torch.inference_mode(False)  # what is kept must stay usable outside of a caller's inference mode
    @torch.no_grad()
    def update(
        self,
        hidden: Float[Tensor, "batch length features"],
        mask: Bool[Tensor, "batch length"] | None = None,
        marks: Marks | None = None,
    ) -> None:
        """Add one batch: a row is a text, `mask` is true at real tokens (None: everywhere). Padding never matters.

        Raises:
            NotFinite: a real token is NaN or infinite; nothing of the batch has been added then.
            UserError: a text has fewer than two tokens, so that it has no pair; or `causes` without `marks`.
        """
        if self.causes and marks is None:
            raise UserError("the causes of a cone are looked for among tokens: update(hidden, mask, marks) needs marks")
        hidden, tokens, marks = _real_tokens(hidden.float() if hidden.dtype.itemsize < 4 else hidden, mask, marks)
        if int(tokens.min()) < 2:
            row = int(tokens.argmin())
            raise UserError(f"row {row} of the batch has {int(tokens[row])} real token(s): a pair needs at least 2")
        lengths = torch.linalg.vector_norm(hidden, dim=-1)
        finite = torch.isfinite(lengths).all(dim=1).cpu()
        if not finite.all():
            raise NotFinite(int((~finite).nonzero()[0]))
        units = hidden / lengths.masked_fill(lengths == 0, 1.0)[..., None]
        nonzero = (lengths > 0).sum(dim=1).cpu()
        sums: dict[str, Tensor] = {
            "tokens": tokens,
            "resultant": units.sum(dim=1).cpu().double().square().sum(dim=1),
            "norms": nonzero,
        }
        with torch.autocast(hidden.device.type, enabled=False):
            sums |= self._add_pairs(units, tokens, nonzero)
            if self.lengths:
                mean = hidden.sum(dim=1).cpu().double() / tokens[:, None]
                squared = lengths.double().square() if hidden.device.type != "mps" else lengths.square()
                sums |= {"total_length": lengths.sum(dim=1), "total_square": squared.sum(dim=1)}
                sums |= {"longest": lengths.amax(dim=1), "mean_square": mean.square().sum(dim=1)}
            if self.causes:
                assert marks is not None
                of_texts, totals = find_causes(units, lengths, tokens, marks)
                sums |= of_texts
                self._totals = add_totals(self._totals, totals)
        if self.sample.size:
            self.sample.update(hidden, tokens, None if marks is None else marks.keys)
        self._texts.append(TextSums(**{name: value.cpu().double() for name, value in sums.items()}))

    def _add_pairs(
        self,
        units: Float[Tensor, "batch length features"],
        tokens: Int[Tensor, " batch"],
        nonzero: Int[Tensor, " batch"],
    ) -> dict[str, Tensor]:
        """Walk the upper triangle of every text's cosine matrix in strips; return the sums of each text over its pairs."""
        batch, length, _ = units.shape
        matrix = self._matrix_for(tokens, units.device)
        if not (self.pairs or self.squares or self.closeness) and matrix is None:
            return {}
        # Narrow strips waste little below the diagonal (1/16 of 512 tokens); a GPU prefers fewer, larger products.
        rows = 64 if units.device.type == "cpu" else 256
        counts = torch.zeros(HISTOGRAM_BINS, dtype=torch.int64, device=units.device)
        squares, closeness = torch.zeros(2, batch, dtype=torch.float64)
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            strip = torch.bmm(units[:, start:stop], units[:, start:].mT).clamp_(-1, 1)
            # The block on the diagonal holds both orders of its pairs, the rest of the strip one of two.
            block = strip[:, :, : stop - start]
            if self.pairs:
                counts += 2 * count_cosines(strip) - count_cosines(block)
            if self.squares:
                squares += 2 * _sum_squares(strip) - _sum_squares(block)
            if matrix is not None:
                matrix[start:stop, start:] += strip.sum(dim=0, dtype=matrix.dtype)
            if self.closeness:  # last: it writes over the strip
                near = strip.sub_(1).mul_(4).exp_()
                closeness += (2 * near.sum(dim=(1, 2)) - block.sum(dim=(1, 2))).cpu().double()
        # Padding has u = 0, so its cosines are exactly 0.
        padded = length**2 - tokens.double() ** 2
        if self.pairs:
            counts[HISTOGRAM_BINS // 2] -= int(padded.sum())
            self._totals = add_totals(self._totals, {"counts": counts})
        sums = {"squares": squares} if self.squares else {}
        if self.closeness:
            # Less the terms i = j, as the strips hold them: 1, and exp(-4) of a zero vector.
            own = nonzero + (tokens - nonzero) * math.exp(-4)
            sums["closeness"] = closeness - math.exp(-4) * padded - own
        return sums

    def _matrix_for(self, tokens: Int[Tensor, " batch"], device: torch.device) -> Tensor | None:
        """The running sum of cosine matrices to add to, or None where it is not wanted, or no longer has a meaning."""
        if not self._matrix_wanted:
            return None
        count = int(tokens[0])
        same = bool((tokens == count).all()) and (self._matrix is None or len(self._matrix) == count)
        if not same or count > MATRIX_TOKENS:
            self._matrix_wanted, self._matrix = False, None
        elif self._matrix is None:
            dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
            self._matrix = torch.zeros((count, count), dtype=dtype, device=device)
        return self._matrix

    def merge(self, other: LayerStatistics) -> LayerStatistics:
        """What seeing the texts of `self` and then those of `other` would have given. Neither is changed."""
        if self._settings() != other._settings():
            raise UserError("statistics of different sums cannot be merged: create both with the same arguments")
        merged = self._like()
        merged._matrix_wanted = self._matrix_wanted and other._matrix_wanted
        merged._texts = [*self._texts, *other._texts]
        merged._totals = add_totals(self._totals, other._totals)
        merged.sample = self.sample.merge(other.sample)
        if merged._matrix_wanted and self._matrix is not None and other._matrix is not None:
            merged._matrix_wanted = self._matrix.shape == other._matrix.shape
        if merged._matrix_wanted:
            merged._matrix = _add(self._matrix, other._matrix)
        return merged

    def _settings(self) -> dict[str, Any]:
        names = ("pairs", "squares", "closeness", "lengths", "causes")
        return {**{name: getattr(self, name) for name in names}, "sample": self.sample.size}

    def _like(self) -> LayerStatistics:
        return LayerStatistics(matrix=False, **self._settings())

    def state_dict(self) -> dict[str, Any]:
        """All that was collected, in tensors: `load_state_dict` of one made with the same arguments goes on from it."""
        return {
            "settings": self._settings(),
            "matrix_wanted": self._matrix_wanted,
            "matrix": self._matrix,
            "texts": [tuple(sums) for sums in self._texts],
            "totals": self._totals,
            "sample": self.sample.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        if state["settings"] != self._settings():
            raise UserError("the state is of statistics made with other arguments")
        self._matrix_wanted, self._matrix = state["matrix_wanted"], state["matrix"]
        self._texts = [TextSums(*sums) for sums in state["texts"]]
        self._totals = dict(state["totals"])
        self.sample.load_state_dict(state["sample"])

    def texts(self) -> TextSums:
        """The sums of each text, in the order in which texts were seen. Raises UserError where there was none."""
        if not self._texts:
            raise UserError("no text has been measured: call update() first")
        columns: list[tuple[Any, ...]] = list(zip(*self._texts, strict=True))
        whole: list[Any] = [None if any(part is None for part in column) else torch.cat(column) for column in columns]
        return TextSums(*whole)

    def total(self, name: str) -> Tensor | None:
        """A sum over all texts that `causes` adds, float64; None where it was not asked for."""
        return self._totals.get(name)

    def histogram(self) -> Int[Tensor, " bins"] | None:
        """How many cosines of all texts, diagonals included, lie in each bin of [-1, 1]: int64 [128].

        Bins are those of `numpy.histogram(c, 128, (-1, 1))`: closed below and open above, the last one closed. None
        without `pairs`.
        """
        if not self.pairs:
            return None
        counts = self._totals.get("counts")
        return torch.zeros(HISTOGRAM_BINS, dtype=torch.int64) if counts is None else counts

    def matrix_sum(self) -> Float[Tensor, " entries"] | None:
        """The upper triangle, row by row, of the sum of all texts' cosine matrices: float64 [N (N + 1) / 2].

        None without `matrix`, or where texts differ in their number of tokens or hold more than `MATRIX_TOKENS`.
        """
        if self._matrix is None:
            return None
        row, column = torch.triu_indices(*self._matrix.shape)
        return self._matrix.cpu().double()[row, column]


def count_cosines(cosines: Float[Tensor, "*any"]) -> Int[Tensor, " bins"]:
    """Count values of [-1, 1] in 128 bins, exactly as `numpy.histogram(cosines, 128, (-1, 1))` does: int64 [128].

    >>> count_cosines(torch.tensor([-1.0, -1e-9, 0.0, 1.0])).nonzero().flatten()
    tensor([  0,  63,  64, 127])
    """
    # An edge is k/64: multiplying by 64 is exact, and so is the floor. Adding 1 to the cosine first would not be.
    half = HISTOGRAM_BINS // 2
    bins = (cosines * half).floor_().add_(half).clamp_(max=HISTOGRAM_BINS - 1).to(torch.uint8)
    return torch.bincount(bins.flatten(), minlength=HISTOGRAM_BINS)


def histogram_of_mean(matrix_sum: Float[Tensor, " entries"], samples: int) -> Int[Tensor, " bins"]:
    """The authors' histogram: of the N x N cosine matrix averaged over texts; int64 [128] that adds up to N^2.

    Averaging first narrows the histogram; it is what the paper's heatmaps show.

    Args:
        matrix_sum: [N (N + 1) / 2], as `LayerStatistics.matrix_sum` gives it.
        samples: the number of texts that were summed.
    """
    mean = matrix_sum / samples
    tokens = int((2 * len(mean)) ** 0.5)
    row = torch.arange(tokens)
    diagonal = row * tokens - row * (row - 1) // 2
    return 2 * count_cosines(mean) - count_cosines(mean[diagonal])


def _real_tokens(
    hidden: Float[Tensor, "batch length features"], mask: Bool[Tensor, "batch length"] | None, marks: Marks | None
) -> tuple[Float[Tensor, "batch longest features"], Int[Tensor, " batch"], Marks | None]:
    """Move the real tokens of each row to its beginning and set what follows to zero; count them (on the CPU)."""
    batch, length, features = hidden.shape
    if mask is None or bool(mask.all()):
        return hidden, torch.full((batch,), length), marks
    tokens = mask.sum(dim=1)
    order = torch.argsort(~mask, dim=1, stable=True)[:, : int(tokens.max())]
    # Filled rather than multiplied: padding may hold NaN.
    real = mask.gather(1, order)[:, :, None]
    moved = hidden.gather(1, order[:, :, None].expand(-1, -1, features)).masked_fill(~real, 0.0)
    return moved, tokens.cpu(), None if marks is None else marks.gather(order)


def _add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _sum_squares(strip: Float[Tensor, "batch rows columns"]) -> Float[Tensor, " batch"]:
    return torch.linalg.vector_norm(strip, dim=(1, 2)).cpu().double().square()
