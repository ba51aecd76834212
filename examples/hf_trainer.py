"""transformers' Trainer: attach alone is enough; the callback logs the term, its weight and the mean cosine of each layer."""

import tempfile

from tiny import compare, rows
from transformers import Trainer, TrainingArguments

from decondense import DispersionLoss, attach
from decondense.train.callback import DispersionCallback


def train(model, weight, steps):
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=2e-3,
            lr_scheduler_type="constant",
            logging_steps=max(steps // 3, 1),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        handle = attach(model, DispersionLoss("dispersion"), weight=weight)  # the one line
        trainer = Trainer(model, arguments, train_dataset=rows())
        DispersionCallback(handle).add_to(trainer)  # one more for its logs, which reach report_to's trackers too
        trainer.train()
        handle.detach()


if __name__ == "__main__":
    compare(train)
