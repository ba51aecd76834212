"""Lightning: attach where the module makes its model. Nothing else changes; validation stays plain cross entropy."""

import logging
import warnings

import lightning
import torch
from tiny import batches, compare

from decondense import DispersionLoss, attach

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers")


class LanguageModel(lightning.LightningModule):
    """A model of transformers as Lightning trains one."""

    def __init__(self, model, weight):
        super().__init__()
        self.model = model
        self.handle = attach(model, DispersionLoss("dispersion"), weight=weight)  # the one line

    def training_step(self, batch, index):
        loss = self.model(**batch).loss
        self.log("loss", loss)
        self.log("dispersion", self.handle.loss().detach())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def train(model, weight, steps):
    module = LanguageModel(model, weight)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_steps=steps, accelerator="auto", devices=1, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(list(batches(steps)), batch_size=None))
    module.handle.detach()


if __name__ == "__main__":
    compare(train)
