"""The name of a model in, the model to train out: from scratch by a configuration, or with the weights of another (mid-training). Knows no data."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from decondense import hub, models
from decondense.errors import UserError, require

TINY = "tiny"
# Of the paper: rank, alpha and dropout, and GPT-2's matrices. Of other models all linear layers are adapted.
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
LORA_GPT2 = ["c_attn", "c_proj", "c_fc"]


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE each, the value as JSON has it where it is JSON, else a string.

    >>> parse_overrides(["n_layer=2", "activation_function=relu"])
    {'n_layer': 2, 'activation_function': 'relu'}
    """
    found: dict[str, Any] = {}
    for given in overrides:
        name, equals, value = given.partition("=")
        if not (equals and name.isidentifier()):
            raise UserError(f"--override {given!r}: NAME=VALUE is expected, such as n_layer=4")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def load_tokenizer(name: str) -> Any:
    """The tokenizer of that name: a folder, or a model on the hub."""
    transformers = require("transformers", extra="hf")
    local = Path(name).expanduser()
    try:
        with hub.asked_once():
            return transformers.AutoTokenizer.from_pretrained(str(local) if local.is_dir() else name)
    except hub.failures() as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        reason = None if local.is_dir() else hub.refusal(error)
        raise UserError(f"--tokenizer {name}: cannot be loaded ({reason or first.rstrip('.:')})") from error


def configure(name: str, overrides: dict[str, Any], context: int, tokenizer: Any, what: str = "--model") -> Any:
    """The configuration of a model that is trained from scratch.

    Args:
        name: "tiny" (a GPT-2 of six blocks of width 128, without dropout); a model type of transformers, such as gpt2, llama or qwen3, with its
            default sizes; a folder with config.json; a name on the hub.
        overrides: of its entries.
        context: tokens of a window, which it must be able to take.
        tokenizer: whose vocabulary it gets, unless `overrides` say otherwise.
        what: the option that gave `name`.

    Raises:
        UserError: there is no such model or entry, or the context is too long for it.
    """
    transformers = require("transformers", extra="hf")
    end = tokenizer.eos_token_id
    ours: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end}
    if name == TINY:
        # No dropout: runs must differ in what is compared, not in the dropout that they happened to draw.
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        ours |= {"n_embd": 128, "n_layer": 6, "n_head": 4, "n_positions": context, **still}
    kind = "gpt2" if name == TINY else name
    with _explained(f"{what} {name}"):
        if kind in transformers.CONFIG_MAPPING:
            _check_names(name, transformers.AutoConfig.for_model(kind), overrides)
            config = transformers.AutoConfig.for_model(kind, **{**ours, **overrides})
        else:
            known = ", ".join([TINY, "gpt2", "llama", "qwen3"])
            config = _stored(name, known, transformers, what)
            _check_names(name, config, overrides)
            for entry, value in {**ours, **overrides}.items():
                setattr(config, entry, value)
    check_context(f"{what} {name}", config, context)
    return config


def from_scratch(name: str, config: Any, seed: int, what: str = "--model") -> Any:
    """A causal language model with new weights, drawn from `seed`."""
    transformers = models.transformers_models()
    torch.manual_seed(seed)
    with _explained(f"{what} {name}"):
        return named_loss(transformers.AutoModelForCausalLM.from_config(config))


def from_weights(name: str, context: int, what: str = "--init") -> tuple[Any, Any]:
    """A causal language model with the weights it was saved with, in float32, and its tokenizer.

    Raises:
        UserError: there is none, it is of another kind, or the context is too long for it.
    """
    model, tokenizer = models.load(name, dtype="float32")
    check_causal(f"{what} {name}", model)
    check_context(f"{what} {name}", model.config, context)
    return named_loss(model), tokenizer


def check_causal(what: str, model: Any) -> None:
    """Raise `UserError` where a model is no causal language model."""
    if model.config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise UserError(f"{what}: is a {type(model).__name__}, and a causal language model is expected")


def positions(config: Any) -> int | None:
    """Tokens that a model can take; None where nothing limits them."""
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def check_context(what: str, config: Any, context: int) -> None:
    """Raise `UserError` where windows are longer than a model's positions."""
    most = positions(config)
    if most is not None and context > most:
        raise UserError(f"{what}: has {most} positions, fewer than --context {context}: give a smaller --context")


def adapt(model: Any) -> Any:
    """The model with low-rank adapters (LoRA), which alone are trained, as in the paper."""
    peft = require("peft", extra="train")
    gpt2 = model.config.model_type == "gpt2"
    with warnings.catch_warnings():
        # peft asks a new transformers by an old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        targets = LORA_GPT2 if gpt2 else "all-linear"
        return peft.get_peft_model(
            model, peft.LoraConfig(**LORA, target_modules=targets, fan_in_fan_out=gpt2, task_type="CAUSAL_LM")
        )


def checkpoint_activations(model: Any) -> None:
    """Have blocks computed again in the backward pass. The reentrant form would run them without gradients, where no loss can be attached."""
    how = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5, which warns at the other name
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


def named_loss(model: Any) -> Any:
    """The model, whose loss has a name."""
    if getattr(model, "loss_type", None) is None:
        model.loss_type = "ForCausalLM"  # GPT-2 names none, and transformers warns of it at every first step
    return model


def _stored(name: str, known: str, transformers: Any, what: str) -> Any:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return transformers.AutoConfig.from_pretrained(folder)
    near = difflib.get_close_matches(name, [TINY, *transformers.CONFIG_MAPPING], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    try:
        with hub.asked_once() as there:
            return transformers.AutoConfig.from_pretrained(name, local_files_only=not there)
    except hub.failures() as error:
        reason = hub.refusal(error) or "the hub has no configuration of it"
        raise UserError(
            f"{what} {name!r}: {hint}no folder of that name is here, and {reason}; "
            f"known without the hub are {known} and other model types of transformers"
        ) from error


def _check_names(model: str, config: Any, overrides: dict[str, Any]) -> None:
    for name in overrides:
        if not hasattr(config, name):
            near = difflib.get_close_matches(name, config.to_dict(), n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise UserError(
                f"--override {name}: a {config.model_type} has no such entry; {hint}see the config of {model}"
            )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what transformers raises at sizes that do not fit together into one line."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, OSError, LookupError, ZeroDivisionError) as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{what}: cannot be made ({first.rstrip('.')})") from error
    except Exception as error:
        # huggingface_hub's strict validation of configurations has errors of its own.
        if "Validation" not in type(error).__name__:
            raise
        raise UserError(f"{what}: cannot be made ({' '.join(str(error).split())})") from error
