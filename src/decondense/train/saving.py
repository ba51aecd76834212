"""Writing in, or one line on why it failed and what is kept. Knows no training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from decondense.errors import UserError, require
from decondense.files import prepare_folder, replace_file


@contextmanager
def saving(path: Path, kept: str = "") -> Iterator[None]:
    """Turn what writing to a full or broken disk raises into a `UserError` that says what is `kept`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}){kept}; make room and run the same command again"
        ) from error


def save_state(path: Path, state: dict[str, Any], kept: str) -> None:
    """Write what `torch.load(path, weights_only=True)` reads, all of it or nothing: the file that was there stays whole until then."""
    with saving(path, kept), replace_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch's writer says that it failed, and why stands in what it met.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer (None: it has none) so that transformers' `from_pretrained` loads them; each file whole or not at all."""
    prepare_folder(folder)
    weights: dict[str, torch.Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        # Tied weights are stored once, under their first name: transformers ties them again.
        if (tensor.data_ptr(), tensor.shape) not in seen or tensor.numel() == 0:
            weights[name] = tensor.detach().contiguous()
        seen.add((tensor.data_ptr(), tensor.shape))
    safetensors = require("safetensors.torch", extra="hf")
    path = folder / "model.safetensors"
    with saving(path), replace_file(path) as temporary:
        try:
            safetensors.save_file(weights, temporary, metadata={"format": "pt"})
        except require("safetensors", extra="hf").SafetensorError as error:
            raise OSError(str(error)) from error
    with saving(folder):
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
