"""A model, its tokenizer and texts in, a `Condensation` out: batches texts, watches layers. Knows no file or plot."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from decondense.condensation import Condensation
from decondense.errors import UserError, require
from decondense.geometry.metrics import choose_metrics, collectors
from decondense.geometry.statistics import LayerStatistics, NotFinite
from decondense.layers import body, count_layers, evaluating, watch

PADDING_SHARE = 0.1
"""At most this share of a batch's tokens is padding."""


def measure(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    max_length: int = 512,
    batch_size: int = 8,
    metrics: str | Sequence[str] = "paper",
    seed: int = 0,
    progress: bool = False,
) -> Condensation:
    """Measure how condensed a model's token embeddings are in each layer: the paper's section 3, text by text.

    The cosines c_ij of all pairs of a text's tokens, i = j included, are averaged at every entry of `hidden_states`:
    that is ||mean of the unit vectors||^2 (arXiv 2602.00217). Hidden states are seen one layer at a time and never
    kept, the language-model head is not run, and memory does not grow with the number of texts. The model is put in
    evaluation mode meanwhile and left as it was.

    Args:
        model: any causal or encoder model of transformers, on any device, in any precision.
        tokenizer: its tokenizer: transformers', or an object whose `encode(text)` gives token ids (a list, or `.ids`).
        texts: strings; of each the first `max_length` tokens are measured, the tokenizer's special tokens among them.
        max_length: in tokens. Where the model has fewer positions, it is lowered to them, with a warning.
        batch_size: texts in one forward pass, at most. Texts of similar length go together. It changes the result by
            rounding only (1e-6).
        metrics: "paper", "all", or names of `decondense.geometry.METRICS`.
        seed: of the bootstrap's resamples.
        progress: show a progress bar when standard error is a terminal.

    Raises:
        UserError: there is no text, a text has fewer than two tokens, the tokenizer does not belong to the model, the
            model returns NaN or infinity, or a metric is not known.

    Examples:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2Model
        >>> _ = torch.manual_seed(0)
        >>> config = GPT2Config(vocab_size=128, n_positions=64, n_embd=16, n_layer=2, n_head=2)
        >>> model = GPT2Model(config)
        >>> class Characters:
        ...     def encode(self, text):
        ...         return [ord(character) for character in text]
        >>> result = measure(model, Characters(), ["embeddings condense", "dispersion prevents it"], max_length=64)
        >>> result.samples, result.mean_cosine.shape, result.histogram.sum(axis=1)
        (2, (3,), array([845, 845, 845]))
    """
    names = choose_metrics(metrics)
    for name, value, least in (("max_length", max_length, 2), ("batch_size", batch_size, 1)):
        if value < least:
            raise UserError(f"{name}={value}: must be at least {least}")
    limit = _lower_to_positions(model, max_length)
    tokens = _tokenize(tokenizer, texts, limit)
    table = _embedding_table(model)
    if table is not None:
        _check_vocabulary(tokens, len(table))
    statistics = collectors(names, count_layers(model), one_length=len({len(ids) for ids in tokens}) == 1)
    order: list[int] = []
    with _progress_bar(len(tokens), shown=progress) as bar:
        for batch in _run(model, tokens, batch_size, statistics, table):
            order += batch
            bar.update(len(batch))
    return Condensation.from_statistics(statistics, names, _name(model), limit, order, seed)


def _run(
    model: nn.Module,
    tokens: list[list[int]],
    batch_size: int,
    statistics: list[LayerStatistics],
    table: Tensor | None,
) -> Iterator[list[int]]:
    """Show every batch to the statistics of every layer; yield the texts of a batch after it."""
    core = body(model)
    parameters = inspect.signature(core.forward).parameters
    takes_mask = "attention_mask" in parameters
    device = next(model.parameters()).device if table is None else table.device
    batch: list[int] = []
    mask: Tensor | None = None

    def visit(index: int, hidden: Tensor) -> None:
        try:
            statistics[index].update(hidden, None if mask is None else mask.to(hidden.device))
        except NotFinite as error:
            raise UserError(
                f"{_name(model)}: hidden_states[{index}] of text {batch[error.row]} holds NaN or infinity; "
                "load the model in float32 or bfloat16, or check its weights"
            ) from error

    with torch.inference_mode(), evaluating(model), watch(model, visit):
        # Without an attention mask only texts of one length can share a batch.
        for batch in _batches([len(ids) for ids in tokens], batch_size, PADDING_SHARE if takes_mask else 0.0):
            rows = [torch.tensor(tokens[text], device=device) for text in batch]
            inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows], device=device)
            real = torch.arange(inputs.shape[1], device=device) < lengths[:, None]
            mask = None if bool(real.all()) else real
            options: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
            if takes_mask:
                options["attention_mask"] = real.to(torch.int64)
            core(inputs, **options)
            yield batch


def _batches(lengths: list[int], batch_size: int, padding_share: float) -> Iterator[list[int]]:
    """Indices of texts in batches, longest first (so that memory runs out at once or never), with little padding."""
    batch: list[int] = []
    real = 0
    for text in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch:
            padded = (len(batch) + 1) * lengths[batch[0]]
            if len(batch) == batch_size or padded - real - lengths[text] > padding_share * padded:
                yield batch
                batch, real = [], 0
        batch.append(text)
        real += lengths[text]
    if batch:
        yield batch


def _tokenize(tokenizer: Any, texts: Iterable[str], limit: int) -> list[list[int]]:
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings, one a text")
    tokens = []
    with _cutting_at_the_end(tokenizer):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"texts[{index}] is {type(text).__name__}: each text must be a string")
            ids = _encode(tokenizer, text, limit)
            if len(ids) < 2:
                raise UserError(
                    f"texts[{index}] has {len(ids)} token(s), a pair needs 2: leave it out or join it to another"
                )
            tokens.append(ids)
    if not tokens:
        raise UserError("texts is empty: give at least one text")
    return tokens


def _encode(tokenizer: Any, text: str, limit: int) -> list[int]:
    if callable(tokenizer):
        ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    elif hasattr(tokenizer, "encode") and not isinstance(tokenizer, str):
        ids = tokenizer.encode(text)
        ids = getattr(ids, "ids", ids)
    else:
        raise UserError(
            f"tokenizer is {type(tokenizer).__name__}: give transformers' tokenizer, or an object whose "
            "encode(text) gives token ids"
        )
    return [int(token) for token in ids[:limit]]


@contextmanager
def _cutting_at_the_end(tokenizer: Any) -> Iterator[None]:
    """Some tokenizers of transformers cut a long text at its beginning unless told otherwise."""
    side = getattr(tokenizer, "truncation_side", None)
    if side is None:
        yield
        return
    tokenizer.truncation_side = "right"
    try:
        yield
    finally:
        tokenizer.truncation_side = side


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Any]:
    if not shown or not sys.stderr.isatty():
        yield _NoBar()
        return
    with require("tqdm", extra="hf").tqdm(total=total, desc="measuring", unit="text", leave=False) as bar:
        yield bar


class _NoBar:
    """What a progress bar is where none is shown."""

    def update(self, count: int) -> None:
        """Nothing moves."""


def _embedding_table(model: nn.Module) -> Tensor | None:
    """The model's input embeddings [vocabulary, features]; None where it does not say which they are."""
    try:
        table = model.get_input_embeddings().weight  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return table if isinstance(table, Tensor) else None


def _check_vocabulary(tokens: list[list[int]], vocabulary: int) -> None:
    for index, ids in enumerate(tokens):
        if max(ids) >= vocabulary or min(ids) < 0:
            strange = next(token for token in ids if not 0 <= token < vocabulary)
            raise UserError(
                f"texts[{index}] has token id {strange}, the model's embedding table has {vocabulary} rows: "
                "this is not the model's tokenizer; load the one that was saved with it"
            )


def _lower_to_positions(model: nn.Module, max_length: int) -> int:
    positions = count_positions(model)
    if positions is None or max_length <= positions:
        return max_length
    warnings.warn(
        f"max_length={max_length}: {_name(model)} has {positions} positions; of each text its first {positions} tokens "
        "are measured",
        stacklevel=3,
    )
    return positions


def count_positions(model: nn.Module) -> int | None:
    """The longest text that the model can take, in tokens; None where its configuration sets no limit."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    for name, module in model.named_modules():
        # RoBERTa and its kin number positions from padding_idx + 1.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return positions - module.padding_idx - 1
    return positions


def _name(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
