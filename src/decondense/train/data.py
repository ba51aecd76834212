"""Documents and a tokenizer in, windows of tokens out: tokenised once, kept in files that are mapped into memory. Knows no model.

An entry of the cache is a folder: `training.tokens` and `held-out.tokens`, all documents one after the other, each ended by the end-of-text token;
`held-out.bytes`, how many bytes of text each of those tokens stands for (float32); `meta.json`; and the tokenizer, where it was trained on the
documents. Windows of any length are cut from it, and the batch of a step is a function of the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError, require
from decondense.files import prepare_folder, write_json
from decondense.texts import packing
from decondense.texts import tokenizer as tokenizers
from decondense.texts.encoding import encode
from decondense.train.documents import Documents
from decondense.train.saving import saving

FORMAT = 1
_BLOCK_CHARACTERS = 1 << 20
_BPE_CHARACTERS = 50_000_000
_DAY_SECONDS = 86_400


class Windows:
    """Windows of `context` tokens that follow one another in a file that is mapped into memory; documents end with the token `end`."""

    def __init__(self, tokens: Any, context: int, end: int) -> None:
        self._tokens = tokens[: len(tokens) // context * context].reshape(-1, context)
        self._end = end
        # `packing.batch` chooses windows: of these, whose only token is their number.
        numbers = torch.arange(len(self._tokens))[:, None]
        self._numbers = packing.Windows(numbers, numbers)

    def __len__(self) -> int:
        return len(self._tokens)

    def rows(self, numbers: list[int] | slice) -> Tensor:
        """Tokens, int64 [windows, context], of windows by their numbers."""
        return torch.from_numpy(self._tokens[numbers].astype("int64"))

    def batch(self, batch_size: int, step: int, seed: int, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The batch of a step: `input_ids`, `labels`, and `documents`, which numbers the documents of a window; int64 [batch, context]."""
        chosen = packing.batch(self._numbers, batch_size, step, seed).tokens[:, 0].tolist()
        tokens = self.rows(chosen)
        documents = torch.zeros_like(tokens)
        documents[:, 1:] = (tokens[:, :-1] == self._end).cumsum(dim=1)
        tokens = tokens.to(device)
        return {"input_ids": tokens, "labels": tokens, "documents": documents.to(device)}


@dataclass(frozen=True)
class Text:
    """What a run trains and is evaluated on.

    Attributes:
        tokenizer: in transformers' form.
        training: windows to train on.
        held_out: int64 [windows, context], of documents that are not among those of `training`.
        bytes_per_token: of text, for each predicted token of the held-out windows.
        digest: tells these tokens from others, however they were come by.
    """

    tokenizer: Any
    training: Windows
    held_out: Tensor
    bytes_per_token: float
    digest: str


def default_cache() -> Path:
    """Where tokens are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "decondense"


def prepare(
    documents: Documents, tokenizer: Any, vocabulary: int, cache: Path, training_tokens: int, held_out_tokens: int
) -> Path:
    """Tokenise, unless that was done before; gives the folder of the result, for `open_text`.

    Args:
        documents: what to tokenise.
        tokenizer: in transformers' form; None = a byte-level BPE of `vocabulary` tokens is trained on the training documents.
        vocabulary: of that BPE.
        cache: the folder of all such results.
        training_tokens, held_out_tokens: as many are enough; documents that are streamed are not read any further.

    Raises:
        UserError: the documents cannot be read, the tokenizer has no end-of-text token, the cache cannot be written.
    """
    enough = [training_tokens, held_out_tokens] if documents.streamed else None
    how = {"bpe": vocabulary} if tokenizer is None else {"tokenizer": _fingerprint(tokenizer)}
    key = _digest(json.dumps([FORMAT, documents.name, documents.identity, how, enough], sort_keys=True).encode())
    entry = prepare_folder(cache) / key
    if (entry / "meta.json").is_file():
        return entry
    _remove_leftovers(cache)
    building = cache / f".{key}.{secrets.token_hex(4)}.part"
    try:
        with saving(building):
            building.mkdir()
            if tokenizer is None:
                tokenizer = tokenizers.train(_first_characters(documents), vocabulary)
                tokenizer.save_pretrained(building / "tokenizer")
            _write(documents, tokenizer, building, enough)
            if not (entry / "meta.json").is_file():  # else another process was faster
                os.replace(building, entry)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return entry


def open_text(entry: Path, tokenizer: Any, context: int, held_out_windows: int) -> Text:
    """Open what `prepare` gave, in windows of `context` tokens, of the held-out ones at most `held_out_windows`.

    Raises:
        UserError: there are not enough tokens for a window.
    """
    numpy = require("numpy", extra="hf")
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    if tokenizer is None:
        tokenizer = require("transformers", extra="hf").AutoTokenizer.from_pretrained(entry / "tokenizer")
    windows = {}
    for side in ("training", "held-out"):
        count = meta[side]["tokens"]
        if count < context:
            what = "to train on" if side == "training" else "that are held out"
            raise UserError(
                f"texts {meta['name']!r} have {count} tokens {what}, of {meta[side]['documents']} documents, and one window needs {context}: "
                "give more text, a smaller --context, or another --held-out"
            )
        tokens = numpy.memmap(entry / f"{side}.tokens", dtype=meta["dtype"], mode="r")
        windows[side] = Windows(tokens, context, tokenizer.eos_token_id)
    held_out = windows["held-out"].rows(slice(held_out_windows))
    lengths = numpy.memmap(entry / "held-out.bytes", dtype="float32", mode="r")[: held_out.numel()]
    # A window's first token is given, not predicted.
    bytes_per_token = float(lengths.reshape(held_out.shape)[:, 1:].mean(dtype="float64"))
    return Text(tokenizer, windows["training"], held_out, bytes_per_token, meta["digest"])


def _write(documents: Documents, tokenizer: Any, folder: Path, enough: list[int] | None) -> None:
    dtype = "uint16" if len(tokenizer) <= 1 << 16 else "int32"
    counts = {"training": [0, 0], "held-out": [0, 0]}
    digest = hashlib.sha256()
    with (
        (folder / "training.tokens").open("wb") as training,
        (folder / "held-out.tokens").open("wb") as held_out,
        (folder / "held-out.bytes").open("wb") as lengths,
    ):
        for block in _blocks(documents.read()):
            for (_, held), document in zip(block, encode(tokenizer, [text for text, _ in block]), strict=True):
                tokens = _array(document.ids, dtype)
                (held_out if held else training).write(tokens)
                if held:
                    lengths.write(_array(document.bytes_of_tokens(), "float32"))
                digest.update(bytes([held]) + tokens)
                counted = counts["held-out" if held else "training"]
                counted[0] += len(document.ids)
                counted[1] += 1
            if enough is not None and all(
                found[0] >= wanted for found, wanted in zip(counts.values(), enough, strict=True)
            ):
                break
    sides = {side: {"tokens": tokens, "documents": number} for side, (tokens, number) in counts.items()}
    write_json(
        folder / "meta.json", {"name": documents.name, "dtype": dtype, "digest": digest.hexdigest()[:16], **sides}
    )


def _blocks(documents: Iterator[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Documents in lists of about a million characters: enough for a tokenizer to work in parallel, little enough for memory."""
    block: list[tuple[str, bool]] = []
    size = 0
    for document in documents:
        block.append(document)
        size += len(document[0])
        if size >= _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _array(values: Any, dtype: str) -> bytes:
    data: bytes = require("numpy", extra="hf").asarray(values, dtype=dtype).tobytes()
    return data


def _first_characters(documents: Documents) -> Iterator[str]:
    """Training documents, as many as a tokenizer learns from."""
    left = _BPE_CHARACTERS
    for text, held in documents.read():
        if left <= 0:
            return
        if not held:
            yield text[:left]
            left -= len(text)


def _fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return _digest(f"{tokenizer.eos_token_id} {described}".encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _remove_leftovers(cache: Path) -> None:
    """What a process that was killed left behind; one that is at work still has touched its folder within a day."""
    for folder in cache.glob(".*.part"):
        try:
            if time.time() - folder.stat().st_mtime > _DAY_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # another process removed it
