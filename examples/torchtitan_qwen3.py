"""torchtitan: its Trainer with the term added to its loss, and the configuration of Qwen3-0.6B, which takes what torchtitan's own takes.

torchrun --nproc_per_node 8 -m torchtitan.train --module torchtitan_qwen3 --config qwen3_0_6b    # in this folder
"""

from dataclasses import dataclass, fields

from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.models.qwen3 import config_registry
from torchtitan.trainer import Trainer

from decondense import DispersionLoss, UserError, attach


class DispersionTrainer(Trainer):
    """torchtitan's Trainer, whose loss has the term in it."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        dispersion_weight: float = 0.1

    def __init__(self, config):
        # A captured graph would replay the documents of its first batch; stages of a pipeline, and shards of a row, need more than this.
        parallel = config.parallelism
        degrees = (parallel.pipeline_parallel_degree, parallel.tensor_parallel_degree, parallel.context_parallel_degree)
        if degrees != (1, 1, 1) or not config.training.disable_cuda_graphs:
            raise UserError("the term takes data parallelism (FSDP) alone, and training.disable_cuda_graphs")
        super().__init__(config)
        [model] = self.model_parts
        self.handle = attach(model, DispersionLoss("dispersion"), config.dispersion_weight, add_to_loss=False)
        self.plain_loss, self.loss_fn = self.loss_fn, self.loss_with_term  # a validator keeps the plain one

    def loss_with_term(self, pred, labels, global_valid_tokens, **inputs):
        loss, metrics = self.plain_loss(pred, labels, global_valid_tokens, **inputs)
        share = (
            labels != IGNORE_INDEX
        ).sum() / global_valid_tokens  # of this batch in the whole step, as of cross entropy
        return loss + self.handle.weight * share * self.handle.loss(), metrics

    def post_dataloading_process(self, input_dict, labels):
        positions = input_dict["positions"]  # they begin anew with each document
        self.handle.documents = (positions.diff(dim=1, prepend=positions[:, :1]) <= 0).cumsum(dim=1)
        return super().post_dataloading_process(input_dict, labels)


def with_dispersion(plain: Trainer.Config, weight: float) -> DispersionTrainer.Config:
    plain.training.disable_cuda_graphs = True
    given = {field.name: getattr(plain, field.name) for field in fields(plain)}
    return DispersionTrainer.Config(**given, dispersion_weight=weight)


def qwen3_0_6b() -> DispersionTrainer.Config:
    return with_dispersion(config_registry.qwen3_0_6b(), weight=0.1)
