"""examples/torchtitan_qwen3.py trains a tiny Qwen3 in torchtitan's own Trainer, on a machine without a GPU. Prints what the other examples print.

What torchtitan asks of a device (its name, its memory) is answered for the CPU here, and its attention, which has no backward pass on a CPU, is
replaced by PyTorch's. All else is torchtitan as it is: FSDP2 over one process, chunked cross entropy, its data loader, its optimizer.
"""

# ruff: noqa: E402 - what torchtitan asks of a device must be answered before it is imported

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import torch
import torch._utils

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
with socket.socket() as free:
    free.bind(("localhost", 0))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(free.getsockname()[1]))
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
torch._utils._get_available_device_type = lambda: "cpu"
torch.cpu.current_device = lambda: 0  # "cpu" elsewhere, which a barrier does not take
if not hasattr(
    torch.distributed, "set_timeout"
):  # torchtitan 0.3 sets one after its first step; torch 2.13 has none to set
    torch.distributed.set_timeout = lambda timeout, group=None: None

import tiny
from torchtitan.components import metrics
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.qwen3 import config_registry
from torchtitan_qwen3 import with_dispersion

import decondense


class Memory:
    """Stands for torchtitan's monitor of a GPU's memory."""

    device_name = "CPU"

    def get_peak_stats(self):
        return metrics.DeviceMemStats(*[0.0] * len(metrics.DeviceMemStats._fields))

    def reset_peak_stats(self):
        pass


metrics.build_device_memory_monitor = Memory


def make_trainer():
    """torchtitan's Trainer of its debug model, cut to three layers, on the embedded corpus."""
    folder = Path(tempfile.mkdtemp())
    tiny.make_tokenizer().save_pretrained(folder)
    records = "\n".join(json.dumps({"text": text}) for text in tiny.TEXTS)
    (folder / "texts").mkdir()
    (folder / "texts" / "texts.json").write_text(records)
    config = with_dispersion(config_registry.qwen3_debugmodel(), weight=0.0)
    config.hf_assets_path = config.dump_folder = str(folder)
    config.dataloader.dataset_path = str(folder / "texts")
    config.checkpoint.enable = False
    config.debug.seed = 0
    config.lr_scheduler.min_lr_factor = (
        1.0  # it would fall to 0 over the ten steps of the debug configuration, and below it after them
    )
    config.training.local_batch_size, config.training.seq_len = 4, tiny.CONTEXT
    config.training.global_batch_size = 8  # two batches a step
    config.training.mixed_precision_param = "float32"
    config.model_spec.model.layers = config.model_spec.model.layers[:3]
    for layer in config.model_spec.model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    return config.build()


def train(trainer, weight, steps):
    trainer.handle.weight = weight
    trainer.config.training.steps = steps
    trainer.train()
    trainer.close()


def look(trainer):
    """As `tiny.look`: loss without the term, mean cosine of held-out text."""
    [model] = trainer.model_parts
    model.eval()
    batch = next(iter(tiny.batches(1, size=32)))
    labels = torch.cat([batch["labels"][:, 1:], torch.full((32, 1), -100)], dim=1)
    with torch.no_grad():
        pred = model(batch["input_ids"], positions=batch["position_ids"])
        loss, _ = trainer.plain_loss(pred, labels, (labels != -100).sum())
    result = decondense.measure(model, tiny.make_tokenizer(), tiny.HELD_OUT, max_length=tiny.CONTEXT)
    model.train()
    return float(loss), float(result.mean_cosine_off_diagonal[1:].mean())


if __name__ == "__main__":
    tiny.compare(train, make=make_trainer, look=look)
