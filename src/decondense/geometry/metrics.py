"""The table of metrics: what each is called, its formula and source, what it is finished from. Knows tensors only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from decondense.errors import UserError, choose
from decondense.geometry import spectrum, text_metrics
from decondense.geometry.causes import ROGUE
from decondense.geometry.spectrum import SAMPLE_TOKENS, Cloud
from decondense.geometry.statistics import LayerStatistics, TextSums


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes:
        name: what `measure(metrics=[...])` and `Condensation.metrics` call it.
        formula: how it is computed; x_i are the vectors of a text's N tokens, u_i = x_i / ||x_i|| (a zero vector stays zero), c_ij = u_i . u_j.
        source: where it comes from.
        level: "text": computed for each text, then averaged over texts; "layers": computed from the layer means; "pairs": counts of cosines
            over all texts; "texts": of sums over all texts; "sample": of a fixed number of tokens of all texts.
        needs: what it is finished from, the arguments of `LayerStatistics`.
        paper: whether the paper's figures and tables report it.
        of_texts: for a metric of level "text", the sums of the texts -> [texts] float64.
        of_sample: for a metric of level "sample" that is one number a layer.
    """

    name: str
    formula: str
    source: str
    level: Literal["text", "layers", "pairs", "texts", "sample"]
    needs: frozenset[str] = frozenset()
    paper: bool = False
    of_texts: Callable[[TextSums], Tensor] | None = None
    of_sample: Callable[[Cloud], float] | None = None


def _cause(name: str) -> Callable[[TextSums], Tensor]:
    return lambda sums: text_metrics.given(getattr(sums, name), "causes")


_PAPER = "Dispersion loss counteracts embedding condensation in small language models, arXiv 2602.00217"

METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(
            name="mean_cosine",
            formula="sum of all c_ij / N^2 = ||sum u_i||^2 / N^2, diagonal included",
            source=_PAPER,
            level="text",
            paper=True,
            of_texts=text_metrics.mean_cosine,
        ),
        Metric(
            name="mean_cosine_off_diagonal",
            formula="sum of c_ij over i != j / (N (N - 1)) = (||sum u_i||^2 - sum ||u_i||^2) / (N (N - 1))",
            source="Ethayarajh 2019, arXiv 1909.00512 (average similarity of different tokens)",
            level="text",
            paper=True,
            of_texts=text_metrics.mean_cosine_off_diagonal,
        ),
        Metric(
            name="spearman",
            formula="Spearman's rho of the layers' mean cosine against their index (+1: ever more condensed)",
            source=_PAPER,
            level="layers",
            paper=True,
        ),
        Metric(
            name="kendall",
            formula="Kendall's tau-b of the layers' mean cosine against their index",
            source=_PAPER,
            level="layers",
            paper=True,
        ),
        Metric(
            name="histogram",
            formula="counts of all c_ij of all texts in 128 bins on [-1, 1], diagonal included",
            source="the paper's heatmap without averaging over texts first",
            level="pairs",
            paper=True,
            needs=frozenset({"pairs"}),
        ),
        Metric(
            name="histogram_of_mean",
            formula="counts in 128 bins on [-1, 1] of the cosine matrix averaged over texts (of one length)",
            source=f"{_PAPER}: its heatmaps, as the authors' code draws them",
            level="pairs",
            paper=True,
            needs=frozenset({"matrix"}),
        ),
        Metric(
            name="last_n",
            formula="for n = 1 ... layers, the mean of the mean cosine over the last n layers",
            source=_PAPER,
            level="layers",
            paper=True,
        ),
        Metric(
            name="effective_rank",
            formula="(sum of all c_ij^2 / N^2)^-1 = (tr M)^2 / tr M^2 where M = U^T U / N and no vector is zero",
            source="participation ratio, or exponential of the Renyi-2 entropy, of the second moment's eigenvalues",
            level="text",
            needs=frozenset({"squares"}),
            of_texts=text_metrics.effective_rank,
        ),
        Metric(
            name="mean_resultant_length",
            formula="||mean u_i|| = sqrt(mean cosine)",
            source="Mardia & Jupp 2000, Directional Statistics",
            level="text",
            of_texts=text_metrics.mean_resultant_length,
        ),
        Metric(
            name="uniformity",
            formula="log of the mean over i != j of exp(-2 ||u_i - u_j||^2)",
            source="Wang & Isola 2020, arXiv 2005.10242",
            level="text",
            needs=frozenset({"closeness"}),
            of_texts=text_metrics.uniformity,
        ),
        Metric(
            name="norm_mean",
            formula="mean of ||x_i||",
            source="statistics of the lengths; massive activations: Sun et al. 2024, arXiv 2402.17762",
            level="text",
            needs=frozenset({"lengths"}),
            of_texts=text_metrics.norm_mean,
        ),
        Metric(
            name="norm_variation",
            formula="standard deviation of ||x_i|| (over N) / mean of ||x_i||",
            source="coefficient of variation of the lengths",
            level="text",
            needs=frozenset({"lengths"}),
            of_texts=text_metrics.norm_variation,
        ),
        Metric(
            name="norm_max_over_mean",
            formula="max of ||x_i|| / mean of ||x_i||",
            source="massive activations: Sun et al. 2024, arXiv 2402.17762",
            level="text",
            needs=frozenset({"lengths"}),
            of_texts=text_metrics.norm_max_over_mean,
        ),
        Metric(
            name="high_low_ratio",
            formula="||X - mean||_F / ||mean part||_F = sqrt((sum ||x_i||^2 - N ||mean x||^2) / (N ||mean x||^2))",
            source="the authors' code, its Frobenius form; Wang et al. 2022, arXiv 2203.05962 (high and low frequency)",
            level="text",
            needs=frozenset({"lengths"}),
            of_texts=text_metrics.high_low_ratio,
        ),
        Metric(
            name="rogue_share",
            formula=f"share of ||sum u_i||^2 that its {ROGUE} largest features carry",
            source="Timkey & van Schijndel 2021, arXiv 2109.04404",
            level="text",
            needs=frozenset({"causes"}),
            of_texts=_cause("rogue"),
        ),
        Metric(
            name="without_rogue_features",
            formula=f"mean cosine over i != j after setting the text's {ROGUE} largest features of ||sum u_i||^2 to zero",
            source="Timkey & van Schijndel 2021, arXiv 2109.04404",
            level="text",
            needs=frozenset({"causes"}),
            of_texts=_cause("without_rogue"),
        ),
        Metric(
            name="without_sinks",
            formula="mean cosine over i != j of tokens that are not the first, no separator, and at most 5 times as long as the median",
            source="attention sinks: Xiao et al. 2023, arXiv 2309.17453; massive activations: Sun et al. 2024, arXiv 2402.17762",
            level="text",
            needs=frozenset({"causes"}),
            of_texts=_cause("without_sinks"),
        ),
        Metric(
            name="without_frequent_tokens",
            formula="mean cosine over i != j of tokens that are not among the most frequent ones, which make up half of all tokens",
            source="frequency bias of embeddings: Gao et al. 2019, arXiv 1907.12009",
            level="text",
            needs=frozenset({"causes"}),
            of_texts=_cause("without_frequent"),
        ),
        Metric(
            name="without_repeats",
            formula="mean of c_ij over pairs of different tokens of the vocabulary",
            source="repetitions are alike in early layers whatever the model's geometry",
            level="text",
            needs=frozenset({"causes"}),
            of_texts=_cause("without_repeats"),
        ),
        Metric(
            name="between_texts",
            formula="mean cosine of tokens of different texts, each text weighing the same: mean over s != t of m_s . m_t, m the mean unit vector",
            source="the part of the mean cosine that lies along one direction common to all texts; Ethayarajh 2019, arXiv 1909.00512",
            level="texts",
            needs=frozenset({"causes"}),
        ),
        Metric(
            name="positions",
            formula="mean over texts of the mean cosine of the token at a position to the others",
            source="token-level view of the mean cosine: its average over positions is the mean cosine over i != j",
            level="texts",
            needs=frozenset({"causes"}),
        ),
        Metric(
            name="maximum_explainable_variance",
            formula="sigma_1^2 / sum sigma^2 of the sampled vectors x",
            source=f"{_PAPER}: the authors' code",
            level="sample",
            needs=frozenset({"sample"}),
            of_sample=spectrum.maximum_explainable_variance,
        ),
        Metric(
            name="singular_value_entropy",
            formula="-sum p log p, p = sigma / sum sigma, of the sampled vectors x; nats",
            source=f"{_PAPER}: the authors' code",
            level="sample",
            needs=frozenset({"sample"}),
            of_sample=spectrum.singular_value_entropy,
        ),
        Metric(
            name="effective_rank_entropy",
            formula="exp of the entropy of p = sigma / sum sigma, of the sampled unit vectors u",
            source="Roy & Vetterli 2007, The effective rank: a measure of effective dimensionality",
            level="sample",
            needs=frozenset({"sample"}),
            of_sample=spectrum.effective_rank_entropy,
        ),
        Metric(
            name="high_low_ratio_spectral",
            formula="||X - mean||_2 / ||mean part||_2 of the sampled vectors x",
            source=f"{_PAPER}: the authors' code; Wang et al. 2022, arXiv 2203.05962",
            level="sample",
            needs=frozenset({"sample"}),
            of_sample=spectrum.high_low_ratio_spectral,
        ),
        Metric(
            name="isoscore",
            formula="((tr C)^2 / ||C||_F^2 - 1) / (F - 1), C the covariance of the sampled vectors x of F features",
            source="Rudman et al. 2022, arXiv 2108.07344 (its eigenvalues are not needed, docs/engines.md)",
            level="sample",
            needs=frozenset({"sample"}),
            of_sample=spectrum.isoscore,
        ),
        Metric(
            name="intrinsic_dimension",
            formula="TwoNN: slope of -log(1 - F(mu)) over log mu, mu the ratio of distances to the two nearest tokens, of the sample",
            source="Facco et al. 2017, Estimating the intrinsic dimension of datasets by a minimal neighborhood information",
            level="sample",
            needs=frozenset({"sample"}),
            of_sample=spectrum.intrinsic_dimension,
        ),
        Metric(
            name="similarity",
            formula="linear CKA of each two layers over the sampled tokens, with unbiased HSIC",
            source="Kornblith et al. 2019, arXiv 1905.00414; Nguyen et al. 2021, arXiv 2010.15327 (unbiased)",
            level="sample",
            needs=frozenset({"sample"}),
        ),
    )
}


def choose_metrics(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The names that "paper", "all", one name, or a list of names stand for; UserError at an unknown name.

    >>> choose_metrics(["effective_rank"])
    ('effective_rank',)
    """
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    if not asked:
        raise UserError(f'metrics=[] names no metric: give "paper", "all", or some of {", ".join(METRICS)}')
    names: list[str] = []
    for name in asked:
        if choose("metric", name, ["paper", "all", *METRICS]) in METRICS:
            names.append(name)
        else:
            names += [row.name for row in METRICS.values() if row.paper or name == "all"]
    return tuple(dict.fromkeys(names))


def needs_of(names: Sequence[str]) -> frozenset[str]:
    """What the metrics of these names are finished from: arguments of `LayerStatistics`."""
    return frozenset[str]().union(*(METRICS[name].needs for name in names))


def collectors(
    names: Sequence[str], layers: int, one_length: bool, sample: int = SAMPLE_TOKENS
) -> list[LayerStatistics]:
    """An empty `LayerStatistics` for each layer, which collects what the metrics of these names need and no more.

    Where texts are not of one length (`one_length`) they have no averaged matrix, and none is begun.

    >>> [statistics.pairs for statistics in collectors(["mean_cosine"], 2, one_length=True)]
    [False, False]
    """
    needs = needs_of(names)
    flags = {need: need in needs for need in ("pairs", "squares", "closeness", "lengths", "causes")}
    matrix = "matrix" in needs and one_length
    return [LayerStatistics(matrix=matrix, sample=sample if "sample" in needs else 0, **flags) for _ in range(layers)]
