"""A source of text, or the folder of a training run, and a tokenizer in; held-out windows of tokens and the bytes they stand for out. Knows no model.

A run of `decondense train` says in its results which documents it held out: they are evaluated on again, in the same windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.texts import sampling, sources
from decondense.train.data import bytes_of_tokens, encode
from decondense.train.documents import open_documents

RESULTS = "results.json"
EMBEDDED_SHARE = 0.1
"""Share of the embedded corpus that `decondense train` and `demo` hold out unless told otherwise."""


@dataclass(frozen=True, eq=False)
class HeldOutText:
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


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """The results of a finished run of `decondense train`; None where the folder is none.

    Raises:
        UserError: the results are damaged.
    """
    path = Path(folder).expanduser() / RESULTS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: remove it, or train that run again") from error
    return content if isinstance(content, dict) and content.get("kind") == "training" else None


def held_out_by_run(run: Mapping[str, Any], tokenizer: Any, tokens: int = 0, length: int = 0) -> HeldOutText:
    """The windows that a run of `decondense train` was evaluated on; fewer with `tokens`, of another length with `length`.

    Raises:
        UserError: its text is not there any more, or is too short.
    """
    config = run["config"]
    length = length or config["context"]
    documents = open_documents(
        config["texts"], config["field"], config["join"], config["streaming"], config["held_out"]
    )
    held = (text for text, held_out in documents.read() if held_out)
    return cut(
        config["texts"],
        held,
        tokenizer,
        length,
        tokens or config["evaluation_windows"] * config["context"],
    )


def check_source(source: str, field: str | None) -> None:
    """Raise the `UserError` that `from_source` would raise for a source that is not there, or whose layout is not known."""
    if source != sources.EMBEDDED:
        sources.load(source, field)


def from_source(source: str, field: str | None, tokenizer: Any, tokens: int, length: int) -> HeldOutText:
    """Windows of a source from its beginning, its records joined; of the embedded corpus those documents that training holds out.

    Raises:
        UserError: there is no such source, or its text is too short.
    """
    if source == sources.EMBEDDED:
        documents = open_documents(source, field, "auto", False, EMBEDDED_SHARE)
        texts: Iterable[str] = (text for text, held_out in documents.read() if held_out)
    else:
        # Joined as for measuring: lines of a file are no documents. A token is at most a word, whatever the tokenizer.
        texts = sampling.stream(sources.load(source, field), tokens)
    return cut(source, texts, tokenizer, length, tokens)


def cut(name: str, texts: Iterable[str], tokenizer: Any, length: int, tokens: int) -> HeldOutText:
    """Join texts, each ended by the end-of-text token, and cut windows of `length` tokens, until there are `tokens`; no further text is read.

    Raises:
        UserError: there are not enough tokens for a window, the tokenizer has no end-of-text token, `length` or `tokens` is too small.
    """
    if length < 2:
        raise UserError(f"length={length}: a window needs at least 2 tokens, one to predict from the other")
    if tokens < length:
        raise UserError(f"{tokens} tokens are fewer than one window of {length}: ask for more, or for shorter windows")
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no end-of-text token (eos_token), which must stand between documents")
    ids: list[int] = []
    sizes: list[float] = []
    wanted = tokens // length * length
    for text in texts:
        for found, ends in encode(tokenizer, [text]):
            ids += [*found, end]
            # The end of a text is predicted, and stands for no byte of it.
            sizes += [*map(float, bytes_of_tokens(text, ends, len(found))), 0.0]
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
    return HeldOutText(name, windows, float(widths.mean()), digest)
