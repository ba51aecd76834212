"""TRL's SFTTrainer: packed conversations, each document a sequence of its own; only what the assistant says is learnt."""

import tempfile
import warnings

from datasets import Dataset
from tiny import CONTEXT, TEXTS, compare, make_tokenizer
from trl import SFTConfig, SFTTrainer

from decondense import DispersionLoss
from decondense.train.callback import DispersionCallback
from decondense.train.sft import attach_to_sft

warnings.filterwarnings("ignore", message=".*pin_memory")
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}{{ eos_token }}{% endfor %}"
)


def conversations():
    """The first line of a text asks, the next 100 letters answer."""
    pairs = [(text.split("\n")[0], text[len(text.split("\n")[0]) :][:100]) for text in TEXTS]
    return [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs if len(a) > 50]


def train(model, weight, steps):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=8,
            bf16=False,
            max_length=CONTEXT,
            packing=True,  # documents are told from one another by the positions that TRL gives the model
            assistant_only_loss=True,  # a sequence weighs as many tokens as are learnt of it; all its tokens are dispersed
            learning_rate=2e-3,
            lr_scheduler_type="constant",
            logging_steps=max(steps // 3, 1),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_list([{"messages": messages} for messages in conversations()])
        trainer = SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
        handle = attach_to_sft(trainer, DispersionLoss("dispersion"), weight=weight)  # the one line
        DispersionCallback(handle).add_to(trainer)
        trainer.train()
        handle.detach()


if __name__ == "__main__":
    compare(train)
