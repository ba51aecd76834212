"""A source of text, or a run's configuration, and a tokenizer in; held-out windows of tokens and the bytes they stand for out. Knows no model.

The configuration of a training says which documents it held out: they are evaluated on again, in the same windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.texts import embedded, sampling, sources
from decondense.texts.encoding import encode
from decondense.train.documents import open_documents


@dataclass(frozen=True, eq=False)
class HeldOutWindows:
    """What a model is evaluated on.

    Attributes:
        name: of the source.
        windows: int64 [windows, length].
        bytes_per_token: of UTF-8 text, for each token but the first of a window.
        digest: of the tokens, 16 hexadecimal digits.
    """

    name: str
    windows: Tensor
    bytes_per_token: float
    digest: str


def windows_of_run(config: Mapping[str, Any], tokenizer: Any, tokens: int = 0, length: int = 0) -> HeldOutWindows:
    """The windows that a run of `decondense train` of this configuration was evaluated on; fewer with `tokens`, of another length with `length`.

    Raises:
        UserError: its text is not there any more, or is too short.
    """
    length = length or config["context"]
    documents = open_documents(*(config[name] for name in ("texts", "field", "join", "streaming", "held_out")))
    tokens = tokens or config["evaluation_windows"] * config["context"]
    return cut(config["texts"], documents.held_out(), tokenizer, length, tokens)


def check_source(source: str, field: str | None) -> None:
    """Raise the `UserError` that `windows_of_source` would raise for a source that is not there, or whose layout is not known."""
    if source != sources.EMBEDDED:
        sources.load(source, field)


def windows_of_source(source: str, field: str | None, tokenizer: Any, tokens: int, length: int) -> HeldOutWindows:
    """Windows of a source from its beginning, its records joined; of the embedded corpus those documents that training holds out.

    Raises:
        UserError: there is no such source, or its text is too short.
    """
    if source == sources.EMBEDDED:
        texts: Iterable[str] = (document.text for document in embedded.split(embedded.documents())[1])
    else:
        # Joined as for measuring: lines of a file are no documents. A token is at most a word, whatever the tokenizer.
        texts = sampling.stream(sources.load(source, field), tokens)
    return cut(source, texts, tokenizer, length, tokens)


def cut(name: str, texts: Iterable[str], tokenizer: Any, length: int, tokens: int) -> HeldOutWindows:
    """Join texts, each ended by the end-of-text token, and cut windows of `length` tokens, until there are `tokens`; no further text is read.

    Raises:
        UserError: there are not enough tokens for a window, the tokenizer has no end-of-text token, `length` or `tokens` is too small.
    """
    if length < 2:
        raise UserError(f"length={length}: a window needs at least 2 tokens, one to predict from the other")
    if tokens < length:
        raise UserError(f"{tokens} tokens are fewer than one window of {length}: ask for more, or for shorter windows")
    ids: list[int] = []
    sizes: list[float] = []
    wanted = tokens // length * length
    for text in texts:
        for document in encode(tokenizer, [text]):
            ids += document.ids
            sizes += document.bytes_of_tokens()
        if len(ids) >= wanted:
            break
    count = min(len(ids) // length, wanted // length)
    if count == 0:
        raise UserError(
            f"texts {name!r} make {len(ids)} tokens to evaluate on, and one window needs {length}: give more text, or a smaller --max-length"
        )
    windows = torch.tensor(ids[: count * length]).view(count, length)
    widths = torch.tensor(sizes[: count * length], dtype=torch.float64).view(count, length)[:, 1:]
    if not float(widths.sum()):
        raise UserError(f"texts {name!r}: their tokens stand for no text")
    digest = hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:16]
    return HeldOutWindows(name, windows, float(widths.mean()), digest)
