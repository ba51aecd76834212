"""What the examples share: a tiny model, tiny data, and training it twice, without the term and with it. Downloads nothing."""

import argparse
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers

from decondense import measure
from decondense.ranks import rank
from decondense.texts import embedded, packing, tokenizer

transformers.logging.set_verbosity_error()
CONTEXT = 64
HELD_OUT = [document.text for document in embedded.documents()[-8:]]
TEXTS = [document.text for document in embedded.documents()[:-8]]


@cache
def make_tokenizer():
    return tokenizer.train(TEXTS, vocabulary_size=512)


def make_model() -> transformers.PreTrainedModel:
    """A GPT-2 of 8 layers and 0.5 million weights, always the same one."""
    torch.manual_seed(0)
    size = {"vocab_size": 512, "n_positions": CONTEXT, "n_embd": 64, "n_layer": 8, "n_head": 4}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, **special))


@cache
def rows(texts: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Packed windows [CONTEXT] as a Trainer takes them; positions begin anew with each document, and tell the term where one does."""
    windows = packing.pack(TEXTS[:texts], make_tokenizer(), CONTEXT)
    new = torch.ones_like(windows.documents, dtype=torch.bool)
    new[:, 1:] = windows.documents[:, 1:] != windows.documents[:, :-1]
    places = torch.arange(CONTEXT).expand_as(windows.tokens)
    positions = places - torch.where(new, places, 0).cummax(dim=1).values
    columns = {"input_ids": windows.tokens, "labels": windows.tokens.masked_fill(new, -100), "position_ids": positions}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def batches(steps: int, size: int = 8):
    """Random batches {name: [size, CONTEXT]}, the same for both trainings."""
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = [rows()[place] for place in torch.randint(len(rows()), (size,), generator=random)]
        yield {name: torch.stack([row[name] for row in chosen]) for name in chosen[0]}


def look(model: torch.nn.Module) -> tuple[float, float]:
    """Loss on a batch, without the term, and mean cosine (i != j) on held-out text, averaged over the blocks."""
    model.eval()
    with torch.no_grad():
        loss = float(model(**next(iter(batches(1, size=32)))).loss)
    result = measure(model, make_tokenizer(), HELD_OUT, max_length=CONTEXT)
    model.train()
    return loss, float(result.mean_cosine_off_diagonal[1:].mean())


def compare(train: Callable[[Any, float, int], None], weight: float = 3.0, make=make_model, look=look) -> None:
    """Run `train(model, weight, steps)` with weight 0 and with `weight`, and print what `look` sees before and after."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    for given in (0.0, weight):
        model = make()
        loss, cosine = look(model)
        train(model, given, steps)
        trained_loss, trained_cosine = look(model)
        if rank() == 0:
            found = f"loss {loss:.3f} -> {trained_loss:.3f}, mean cosine {cosine:.3f} -> {trained_cosine:.3f}"
            print(f"weight {given:g}: {found}")
