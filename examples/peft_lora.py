"""peft: attach to the model that `get_peft_model` returns. The term trains the adapters alone, as cross entropy does."""

import peft
import torch
from tiny import batches, compare

from decondense import DispersionLoss, attach


def train(model, weight, steps):
    adapter = peft.LoraConfig(r=8, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, adapter)
    handle = attach(adapted, DispersionLoss("dispersion"), weight=weight)  # the one line
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for batch in batches(steps):
        adapted(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.detach()


if __name__ == "__main__":
    compare(train)
