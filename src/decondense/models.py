"""The name of a model in, the model and its tokenizer out, from a folder or the hub. Knows no text, loss or statistic.

Weights come from safetensors files alone unless pickles are allowed, and code that a repository carries is not run
unless it is trusted: both could do on this machine whatever their author likes.
"""

from __future__ import annotations

import json
import logging as standard_logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from decondense import hub
from decondense.errors import UserError, choose, require

DTYPES = ("auto", "float32", "bfloat16", "float16")
SPREAD = "spread"

_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Any one of these makes a tokenizer: of the tokenizers package, of sentencepiece, of byte pairs or of word pieces.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Place:
    """Where a model lies: a folder, or a hub name at a revision (None: its newest)."""

    name: str
    revision: str | None = None
    local: bool = False

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def find(name: str, revision: str | None = None, allow_pickle: bool = False) -> Place:
    """Say which model `name` means: a folder, a hub name, or NAME@REVISION. Nothing is loaded, the hub is not asked.

    Raises `UserError` where it means nothing, and where a folder lacks its configuration, weights or tokenizer.

    >>> find("EleutherAI/pythia-70m@step512")
    Place(name='EleutherAI/pythia-70m', revision='step512', local=False)
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if revision is not None:
            raise UserError(
                f"{name} is a folder and has no revision {revision!r}: give a hub name to choose a revision"
            )
        _check_folder(folder, allow_pickle)
        return Place(str(folder), local=True)
    if folder.is_file():
        raise UserError(f"{name} is a file: give the folder with config.json, model.safetensors and tokenizer.json")
    before, at, after = name.partition("@")
    if at and Path(before).expanduser().is_dir():
        raise UserError(f"{before} is a folder and has no revision {after!r}: give the folder alone")
    if name.startswith((".", "~", "/", "\\")) or name.endswith("/") or name.count("/") > 1:
        raise UserError(
            f"{name}: no such folder; give a local folder with config.json and weights, or a name on the hub"
        )
    if at and not after:
        raise UserError(f"{name}: no revision after the @; NAME@REVISION names a branch, tag or commit of the hub")
    utils = require("huggingface_hub.utils", extra="hf")
    from huggingface_hub.errors import HFValidationError

    try:
        utils.validate_repo_id(before)
    except HFValidationError as error:
        raise UserError(f"{name!r} is neither a folder here nor a name that the hub can have") from error
    return Place(before, revision if revision is not None else (after or None))


def check(name: str, revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False) -> None:
    """Raise the `UserError` that `load` would raise for a model that is not there; only the configuration is read."""
    with _quiet():
        place = find(name, revision, allow_pickle)
        with _from_hub_or_cache(place, trust_remote_code) as options:
            _load_config(place, options)


def load(
    name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    dtype: str = "auto",
    device: str = "cpu",
    bits: int = 0,
) -> tuple[Any, Any]:
    """Load a model, in evaluation mode, and its tokenizer.

    A causal language model and an encoder-decoder are loaded with their head, any other (an encoder) without one.

    Args:
        name: a folder, a hub name, or NAME@REVISION.
        revision: a branch, tag or commit of the hub; another way to write NAME@REVISION.
        trust_remote_code: run the Python code that comes with the model.
        allow_pickle: load pytorch_model.bin where there are no safetensors.
        dtype: "auto" keeps the precision that the weights are stored in; or "float32", "bfloat16", "float16".
        device: "auto" (a CUDA device where there is one), "cpu", "cuda", "cuda:1", "mps"; or "spread": over all devices, what does not fit into
            them staying in memory and on disk (`device_map="auto"`; needs accelerate).
        bits: 8 or 4 loads weights rounded to so many bits (bitsandbytes, on a CUDA device); 0 as they are.

    Returns:
        the transformers model and its tokenizer.

    Raises:
        UserError: there is no such model, folder or revision; the hub is not reachable and the model not in its cache;
            a file is missing or damaged; weights, configuration and tokenizer do not belong together; code or pickles
            would be needed that were not allowed; there is no such device.
    """
    choose("dtype", dtype, DTYPES)
    target = None if device == SPREAD else choose_device(device)
    how = _placing(device, target, bits)
    with _quiet():
        place = find(name, revision, allow_pickle)
        with _from_hub_or_cache(place, trust_remote_code) as options:
            config = _load_config(place, options)
            tokenizer = _load_tokenizer(place, options)
            model = _load_model(place, config, allow_pickle, dtype, {**options, **how})
    _check_vocabulary(place, model, tokenizer)
    if how:
        return model.eval(), tokenizer
    try:
        return model.to(target).eval(), tokenizer
    except torch.OutOfMemoryError as error:
        raise UserError(f"{place} does not fit into the memory of {device}: try --dtype bfloat16, or cpu") from error


def _placing(device: str, target: torch.device | None, bits: int) -> dict[str, Any]:
    """Options of `from_pretrained` for weights that it puts in their place itself; none where they are simply moved to `target`."""
    if bits not in (0, 4, 8):
        raise UserError(f"bits={bits}: weights can be loaded with 8 or 4 bits, or as they are (0)")
    options: dict[str, Any] = {}
    if device == SPREAD or bits:
        require("accelerate", extra="train")
        options["device_map"] = "auto" if target is None else {"": target}
    if bits:
        if target is not None and target.type != "cuda":
            raise UserError(f"bits={bits}: needs a CUDA device, and the model goes to {target}; load it as it is")
        require("bitsandbytes", extra="quantized")
        transformers = require("transformers", extra="hf")
        options["quantization_config"] = transformers.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    return options


def choose_device(name: str) -> torch.device:
    """The device of that name, "auto" being a CUDA device where there is one; `UserError` where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known: give auto, cpu, cuda, cuda:1, mps or {SPREAD}") from error
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise UserError(
            f"device {name!r} is not there: found {torch.cuda.device_count()} CUDA devices; cpu always works"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device {name!r} is not there: torch finds no Apple GPU; cpu always works")
    return device


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    """The faults that are seen without loading, each in the words of who can mend it."""

    def has(*files: str) -> bool:
        return any((folder / file).is_file() for file in files)

    if not has("config.json"):
        if has("adapter_config.json"):
            raise UserError(f"{folder} holds an adapter without its model: merge the two and save the result")
        raise UserError(f"{folder} has no config.json: give the folder that model.save_pretrained wrote")
    if not has(*_SAFE_WEIGHTS):
        if not has(*_PICKLED_WEIGHTS):
            raise UserError(f"{folder} has no weights: model.safetensors is missing")
        if not allow_pickle:
            raise UserError(
                f"{folder} has its weights as a pickle only (pytorch_model.bin), which can run code when it is loaded: "
                "convert it to safetensors, or give --allow-pickle where you trust its author"
            )
    _check_parts(folder)
    if not has(*_TOKENIZER_FILES):
        # A tokenizer that is code of the repository needs none of these: its configuration names the class.
        configuration = folder / "tokenizer_config.json"
        if not (configuration.is_file() and "auto_map" in configuration.read_text(encoding="utf-8", errors="replace")):
            raise UserError(
                f"{folder} has no tokenizer: tokenizer.json is missing; tokenizer.save_pretrained writes it"
            )


def _check_parts(folder: Path) -> None:
    """Raise where the index of weights in several files names files that are not there, as after a download that broke off."""
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if not index.is_file():
            continue
        try:
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, AttributeError) as error:
            raise UserError(f"{index} is damaged: download the model again") from error
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            raise UserError(
                f"{folder} is not complete: {len(missing)} of {len(parts)} files of weights are missing, such as {missing[0]}; "
                "download the model again"
            )


def _load_config(place: Place, options: dict[str, Any]) -> Any:
    transformers = require("transformers", extra="hf")
    with _explained(place, "configuration"):
        config = transformers.AutoConfig.from_pretrained(place.name, **options)
    return config


def _load_tokenizer(place: Place, options: dict[str, Any]) -> Any:
    transformers = require("transformers", extra="hf")
    with _explained(place, "tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(place.name, **options)


def _load_model(place: Place, config: Any, allow_pickle: bool, dtype: str, options: dict[str, Any]) -> Any:
    with _explained(place, "weights"):
        model, report = _model_class(config).from_pretrained(
            place.name,
            config=config,
            # None: safetensors where they are, else pytorch_model.bin.
            use_safetensors=None if allow_pickle else True,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            # Mismatches come back in the report: a line of our own says more than transformers' table of them all.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    if report["mismatched_keys"]:
        key, stored, expected = min(report["mismatched_keys"])
        raise UserError(
            f"{place}: its weights do not fit its config.json: {key} is stored as {list(stored)}, "
            f"expected as {list(expected)}"
        )
    # Encoders are saved with and without the pooling layer, which no hidden state passes.
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    if missing:
        raise UserError(
            f"{place}: {len(missing)} weights that its config.json asks for are missing, such as {min(missing)}: "
            "the files do not belong together, or the model was saved in part"
        )
    return model


def _model_class(config: Any) -> Any:
    """The class with a head for causal language models, without one for others: by what was saved.

    Not by what could be made of it: BERT can be had as a causal model too, but its checkpoints hold none.
    """
    transformers = require("transformers", extra="hf")
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    if config.architectures:
        causal = bool(set(config.architectures) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))
    else:
        causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    causal = causal or "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if config.is_encoder_decoder and set(config.architectures or ()) & set(
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()
    ):
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM if causal else transformers.AutoModel


def _check_vocabulary(place: Place, model: Any, tokenizer: Any) -> None:
    rows = len(model.get_input_embeddings().weight)
    # Tokens that were added after training, such as for padding, may lie beyond the table: no text is cut into them.
    added = tokenizer.added_tokens_decoder
    highest = max((number for number in tokenizer.get_vocab().values() if number not in added), default=-1)
    if highest >= rows:
        raise UserError(
            f"{place}: its tokenizer does not match the model: token ids go up to {highest}, the embedding table has "
            f"{rows} rows; put the tokenizer beside it that the model was trained with"
        )


@contextmanager
def _from_hub_or_cache(place: Place, trust_remote_code: bool) -> Iterator[dict[str, Any]]:
    """Give the options that every part of a model is loaded with, the hub being asked at most once."""
    options = {"revision": place.revision, "trust_remote_code": trust_remote_code}
    if place.local:
        yield options
        return
    with hub.asked_once() as there:
        yield {**options, "local_files_only": not there}


@contextmanager
def _explained(place: Place, part: str) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be loaded into one line."""
    from safetensors import SafetensorError

    failures: tuple[type[Exception], ...] = (*hub.failures(), SafetensorError)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"{place} does not fit into memory: try --dtype bfloat16") from error
    except failures as error:
        refusal = None if place.local else hub.refusal(error)
        if refusal is not None:
            reason = f"no folder of that name is here, and {refusal}; give a local folder, or look at the name"
        elif "trust_remote_code" in str(error):
            reason = "it brings Python code of its own: read it, and give --trust-remote-code where you trust it"
        elif "use_safetensors=True" in str(error):
            reason = "the hub has no safetensors of it: give --allow-pickle where you trust its author"
        else:
            first, *_ = str(error).strip().splitlines() or [""]
            # The text of a KeyError is the bare key, which says nothing without the kind of the error.
            if isinstance(error, LookupError) or not first:
                first = f"{type(error).__name__}: {first}"
            reason = f"its {part} cannot be loaded ({first.rstrip('.:')})"
        raise UserError(f"{place}: {reason}") from error


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Keep what packages log meanwhile off standard error: torchao, which transformers imports, names kernels of other machines there."""
    earlier = standard_logging.root.manager.disable
    standard_logging.disable(standard_logging.CRITICAL)
    try:
        yield
    finally:
        standard_logging.disable(earlier)


def transformers_models() -> Any:
    """The package transformers, the base of its models being imported: with it comes torchao, where it is installed."""
    transformers = require("transformers", extra="hf")
    with nothing_logged():
        _ = transformers.PreTrainedModel
    return transformers


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars, notes and reports off standard error: what matters in them is raised as an error."""
    require("transformers", extra="hf")
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # Without this, the name of a hub model that has no safetensors is sent to a service that converts it.
    conversion = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with nothing_logged():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if conversion is None:
            del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
        else:
            os.environ["DISABLE_SAFETENSORS_CONVERSION"] = conversion
