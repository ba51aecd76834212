"""Run as a script: attaches to models that were compiled and called before; prints what is said, and terms, as JSON. Shapes are not checked."""

import json

import torch
from models import build, tokens
from torch import nn

from decondense import DispersionLoss, UserError, attach


class Blocks(nn.Module):
    """As few operations as make a model: compiling takes long."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])

    def forward(self, input_ids, labels=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return {"loss": hidden.square().mean()}


def term(model, **options):
    with attach(model, DispersionLoss(), **options) as handle:
        try:
            model(input_ids=tokens(), labels=tokens())
        except UserError as error:
            return str(error)
        return handle.loss().item()


def called(model):
    model(input_ids=tokens(), labels=tokens())
    return model


torch.set_num_threads(1)
outside = called(torch.compile(Blocks().train(), backend="eager"))
in_place = Blocks().train()
in_place.compile(backend="eager")
found = {"not compiled": term(Blocks().train()), "outside": term(outside), "in place": term(called(in_place))}
whole = build("llama").train()
found["last layer"] = term(whole, layers="last")
whole.model = torch.compile(whole.model, backend="eager")
called(whole)
found["body"], found["last layer of a compiled body"] = term(whole), term(whole, layers="last")
torch.compiler.reset()
found["after reset"] = term(outside)
print(json.dumps(found))
