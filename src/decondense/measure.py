"""A model, its tokenizer and texts in, a `Condensation` out. Knows no file or plot."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from decondense.condensation import Condensation
from decondense.errors import UserError
from decondense.geometry.metrics import choose_metrics, collectors, needs_of
from decondense.layers import count_layers, find_stacks
from decondense.passes import Reader, gather
from decondense.progress import progress_bar
from decondense.tokens import Marker, check_vocabulary, tokenize


def measure(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    max_length: int = 512,
    batch_size: int = 8,
    metrics: str | Sequence[str] = "paper",
    seed: int = 0,
    progress: bool = False,
    layers: Sequence[str] | None = None,
    stack: str | None = None,
    logits: bool = False,
    windows: bool = False,
    max_tokens: int | None = None,
    checkpoint: Path | None = None,
) -> Condensation:
    """Measure how condensed a model's token embeddings are in each layer: the paper's section 3, text by text.

    The cosines c_ij of all pairs of a text's tokens, i = j included, are averaged at every entry of `hidden_states`:
    that is ||mean of the unit vectors||^2 (arXiv 2602.00217). Hidden states are seen one layer at a time and never
    kept, the language-model head is not run, and memory does not grow with the number of texts. The model is put in
    evaluation mode meanwhile and left as it was.

    In a process group (torchrun, `accelerate launch`) each process takes its share of the batches, and each returns the result of all.

    Args:
        model: any model of transformers that reads tokens (causal, encoder, encoder-decoder, the language part of a multimodal one), on any
            device or several, in any precision; or any PyTorch model that does, with `layers`.
        tokenizer: its tokenizer: transformers', or an object whose `encode(text)` gives token ids (a list, or `.ids`).
        texts: strings; of each the first `max_length` tokens are measured, the tokenizer's special tokens among them.
        max_length: in tokens. Where the model has fewer positions, it is lowered to them, with a warning.
        batch_size: texts in one forward pass, at most. Texts of similar length go together. It changes the result by
            rounding only (1e-6). Where memory runs out it is halved, with a warning.
        metrics: "paper", "all" (those of `decondense.geometry.METRICS`, the diagnosis too), or names.
        seed: of the bootstrap's resamples, and of the sample of tokens.
        progress: show a progress bar when standard error is a terminal.
        layers: names of modules whose outputs are the layers, for a model of any make: ["blocks.0", ...], or patterns as "blocks.*".
        stack: of an encoder-decoder: "encoder" (the default) or "decoder", which reads the text shifted by one, as in training, beside an encoder
            that reads the text.
        logits: measure the head's output as one more layer.
        windows: measure all of a text, in windows of `max_length` tokens that count as texts.
        max_tokens: stop reading texts where this many tokens are together.
        checkpoint: file that keeps the state after each batch; where it exists the run goes on from it. It is removed at the end.

    Raises:
        UserError: there is no text, a text has fewer than two tokens, the tokenizer does not belong to the model, all layers
            hold NaN or infinity (a layer that does is named in a warning, and its numbers are NaN), or a name is not known.

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
    for name, value, least in (
        ("max_length", max_length, 2),
        ("batch_size", batch_size, 1),
        ("max_tokens", max_tokens, 2),
    ):
        if value is not None and value < least:
            raise UserError(f"{name}={value}: must be at least {least}")
    if stack is None and layers is None:
        stack = next(iter(find_stacks(model)), None)
    entries = count_layers(model, stack, layers) + logits
    limit = _lower_to_positions(model, max_length)
    tokenized = tokenize(tokenizer, texts, limit, windows, max_tokens)
    table = _embedding_table(model)
    if table is not None:
        check_vocabulary(tokenized, len(table))
    one_length = len(set(tokenized.lengths)) == 1
    marker = Marker(tokenized, tokenizer, seed) if needs_of(names) & {"causes", "sample"} else None
    reader = Reader(
        model, tokenized, _name(model), stack, layers, logits, marker, lambda: collectors(names, entries, one_length)
    )
    with progress_bar("measuring", "text", len(tokenized.ids), shown=progress, leave=False) as bar:
        found = reader.run(batch_size, checkpoint, bar.add)
    order, statistics = gather(found, reader)
    result = Condensation.from_statistics(
        statistics,
        names,
        _name(model),
        limit,
        order,
        seed,
        parameters=_count_parameters(model),
        digest=tokenized.digest,
    )
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return result


def _embedding_table(model: nn.Module) -> Tensor | None:
    """The model's input embeddings [vocabulary, features]; None where it does not say which they are."""
    try:
        table = model.get_input_embeddings().weight  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return table if isinstance(table, Tensor) else None


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


def _count_parameters(model: Any) -> int:
    # transformers counts weights that are packed into fewer numbers as what they stand for.
    count = getattr(model, "num_parameters", None)
    return int(count()) if callable(count) else sum(parameter.numel() for parameter in model.parameters())
