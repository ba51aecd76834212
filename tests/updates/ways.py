"""A case in, how the parameters change out: the loops, trainers and wrappers of the matrix. Knows no tolerance."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from updates.cases import Case
from updates.reference import RATE, SEQUENCES, STEPS, WEIGHT, build, by_hand, collate, count_targets, pack, sequences

from decondense import DispersionLoss, attach
from decondense.train.update import Update, over_ranks


def change(case: Case, folder: Path) -> dict[str, Tensor]:
    """How the parameters change in three steps, by name. `folder` is the same on every rank."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    before = {name: parameter.detach().clone() for name, parameter in build(case.model).named_parameters()}
    model = load_sharded(case, folder) if case.how == "Trainer" and case.wrapper == "FSDP2" else build(case.model)
    if not case.first_labels:
        # GPT-2's class tells no loss, for which Trainer counts labels of first tokens too; its cross entropy is this one all the same.
        model.loss_type = "ForCausalLM"
    ways = {"Trainer": in_trainer, "Accelerate": with_accelerate, "Update": with_update}
    ways.get(case.how, in_a_loop)(case, model)
    if case.compiled != "off":
        counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert counted, "nothing was compiled"
    after = {name: parameter.detach() for name, parameter in model.named_parameters()}
    after = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in after.items()}
    return {name: after[name] - before[name] for name in before}


def dispersed(model: nn.Module) -> nn.Module:
    attach(model, DispersionLoss("dispersion"), weight=WEIGHT)
    return model


# --- a plain loop -------------------------------------------------------------------------------------------------------------------


def in_a_loop(case: Case, model: nn.Module) -> None:
    """Divided by the targets of all ranks and micro-batches, times the ranks, whose gradients are averaged."""
    checkpoint(model, case.checkpointing)
    inner = model
    hand = case.how in ("by hand", "mean over sequences", "mean over sequences, not divided", "none")
    if not hand and case.first == "attach":
        dispersed(model)
    model = wrap(model, case)
    if not hand and case.first == "wrap":
        dispersed(model)
    optimizer = torch.optim.SGD(inner.parameters(), lr=RATE)
    for step in range(STEPS):
        total, batches = count_targets(sequences(step)), micro_batches(case, step)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else without_exchange(model, inner, case.wrapper):
                with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bfloat16"):
                    if hand:
                        weighting = "targets" if case.how == "by hand" else case.how
                        loss = by_hand(model, batch, total, weighting, parts=case.processes * case.accumulation)
                    elif case.how == "own targets":
                        loss = model(**batch).loss / case.accumulation
                    else:
                        loss = model(**batch, num_items_in_batch=total).loss
                (loss * case.processes).backward()
        optimizer.step()
        optimizer.zero_grad()


def micro_batches(case: Case, step: int) -> list[dict[str, Tensor]]:
    """Those of this rank for one update, dealt out in turn."""
    rows, gather = sequences(step), pack if case.packed else collate
    parts = [rows[start : start + case.batch] for start in range(0, SEQUENCES, case.batch)]
    return [gather(part) for part in parts[dist.get_rank() if case.processes > 1 else 0 :: case.processes]]


def wrap(model: nn.Module, case: Case) -> nn.Module:
    """In DDP; each block and the whole in FSDP2; compiled."""
    if case.wrapper == "DDP":
        model = nn.parallel.DistributedDataParallel(model)
    elif case.wrapper == "FSDP2":
        from torch.distributed.fsdp import fully_shard

        for block in model.transformer.h if case.model == "gpt2" else model.model.layers:
            fully_shard(block)
        fully_shard(model)
    return model if case.compiled == "off" else torch.compile(model, backend=case.compiled)


@contextlib.contextmanager
def without_exchange(model: nn.Module, inner: nn.Module, wrapper: str) -> Iterator[None]:
    """Gradients of this backward pass stay on the rank."""
    if wrapper == "DDP":
        with getattr(model, "_orig_mod", model).no_sync():
            yield
    elif wrapper == "FSDP2":
        inner.set_requires_gradient_sync(False)
        yield
        inner.set_requires_gradient_sync(True)
    else:
        yield


def checkpoint(model: nn.Module, kind: str) -> None:
    if kind != "off":
        # transformers 5 renamed it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": kind == "reentrant"})


# --- the loops of others ------------------------------------------------------------------------------------------------------------


def all_sequences() -> list[dict[str, Tensor]]:
    return [row for step in range(STEPS) for row in sequences(step)]


def in_trainer(case: Case, model: nn.Module) -> None:
    """transformers' Trainer as it is; over several ranks it wraps in DDP what is not sharded."""
    arguments = transformers.TrainingArguments(
        output_dir="unused",  # nothing is saved
        use_cpu=True,
        bf16=case.precision == "bfloat16",
        per_device_train_batch_size=case.batch,
        gradient_accumulation_steps=case.accumulation,
        num_train_epochs=1,
        optim="sgd",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        **checkpointing(case),
        torch_compile=case.compiled != "off",
        torch_compile_backend=None if case.compiled == "off" else case.compiled,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(dispersed(model), arguments, data_collator=collate, train_dataset=all_sequences())
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    assert trainer.state.global_step == STEPS


def checkpointing(case: Case) -> dict[str, Any]:
    if case.checkpointing == "off":
        return {}
    # transformers 5 renamed it.
    new = "activation_checkpointing" in inspect.signature(transformers.TrainingArguments).parameters
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": case.checkpointing == "reentrant"}}


def load_sharded(case: Case, folder: Path) -> nn.Module:
    """The model loaded into FSDP2, which Trainer then leaves as it is: accelerate shards nothing on a CPU."""
    whole = folder / f"whole-{case.model}"
    if dist.get_rank() == 0:
        build(case.model).save_pretrained(whole)
    dist.barrier()
    config = transformers.distributed.DistributedConfig(fsdp_size=case.processes)
    return transformers.AutoModelForCausalLM.from_pretrained(whole, distributed_config=config).train()


def with_accelerate(case: Case, model: nn.Module) -> None:
    """The loop of Accelerate's documentation on gradient accumulation: targets are counted over ranks and micro-batches before the passes."""
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=case.accumulation)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loader = torch.utils.data.DataLoader(all_sequences(), batch_size=case.batch, collate_fn=collate)
    model, optimizer, loader = accelerator.prepare(dispersed(model), optimizer, loader)
    batches = iter(loader)
    for _ in range(STEPS):
        parts = [next(batches) for _ in range(case.accumulation)]
        total = torch.stack([(part["labels"][:, 1:] != -100).sum() for part in parts]).sum()
        total = accelerator.gather(total).sum()
        for number, part in enumerate(parts):
            waits = number + 1 < len(parts)
            with accelerator.no_sync(model) if waits else contextlib.nullcontext():
                loss = model(**part, num_items_in_batch=total).loss
                # Undone by accelerate, which divides by the accumulation, and by DDP, which averages over ranks.
                accelerator.backward(loss * case.accumulation * accelerator.num_processes)
        optimizer.step()
        optimizer.zero_grad()


def with_update(case: Case, model: nn.Module) -> None:
    """What `decondense train` makes of a batch."""
    update = Update(micro_batch=case.batch, wrapped=over_ranks(dispersed(model)))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(STEPS):
        update.accumulate(model, collate(sequences(step)), step)
        optimizer.step()
        optimizer.zero_grad()
