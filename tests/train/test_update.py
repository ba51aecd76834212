"""A batch's gradient is the same however the batch is split; what is drawn at random is a function of the step."""

import math

import pytest
import torch
import torch.distributed as dist
from models import build, tokens
from spawned import found_by_ranks

from decondense import DispersionLoss, UserError, attach
from decondense.losses.formulations import FORMULATIONS
from decondense.train.arms import Arm
from decondense.train.run import _objective
from decondense.train.update import Update, model_loss, over_ranks

ARM = Arm("dispersion", "dispersion", 0.5)


def windows(rows=6, length=12):
    """Packed windows whose documents, and whose labels, differ in number."""
    ids = tokens(rows, length, seed=3)
    documents = torch.stack([torch.arange(length) // size for size in (3, 12, 5, 4, 7, 11)])[:rows]
    labels = ids.masked_fill((torch.arange(rows)[:, None] + torch.arange(length)) % 5 == 0, -100)
    return {"input_ids": ids, "labels": labels, "documents": documents}


def gradients(micro_batch, name="llama", dtype=torch.float64, **options):
    model = build(name).to(dtype).train()
    with attach(model, DispersionLoss(), weight=ARM.weight, add_to_loss=False) as handle:
        terms = Update(_objective(handle, ARM), micro_batch, **options).accumulate(model, windows(), step=0)
    return terms, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_parts_add_up_to_the_update_of_the_whole(name, micro_batch):
    whole, expected = gradients(0, name)
    terms, found = gradients(micro_batch, name)
    assert list(terms) == ["cross entropy", "weighted dispersion"]
    assert terms == pytest.approx(whole, rel=1e-6)
    for one, other in zip(found, expected, strict=True):
        # The models' own sums are in float32 in places (rotary embeddings, the loss).
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_terms_are_those_of_attach():
    terms, _ = gradients(0)
    batch = windows()
    documents = batch.pop("documents")
    model = build("llama").double().train()
    with attach(model, DispersionLoss(), weight=ARM.weight) as handle:
        handle.documents = documents
        loss = model(**batch).loss.item()
    assert loss == pytest.approx(sum(terms.values()), rel=1e-6)
    # Documents matter: without them pairs reach over their ends.
    with attach(model, DispersionLoss(), weight=ARM.weight):
        assert model(**batch).loss.item() != pytest.approx(loss, abs=1e-4)


# sigreg draws its projections anew in each forward pass and layer.
@pytest.mark.parametrize("name", [name for name in FORMULATIONS if name != "sigreg"])
def test_each_formulation_is_added_as_it_is_defined(name):
    """Weight times the mean over layers of sum_b n_b r_b / sum_b n_b: r_b by the eager engine, n_b the targets counted in document b."""
    model, batch, arm = build("gpt2").double().train(), windows(), Arm(name, name, 0.3)
    with attach(model, DispersionLoss(name), weight=0.3, add_to_loss=False) as handle:
        terms = Update(_objective(handle, arm), micro_batch=4).accumulate(model, batch, step=0)
    documents, counted = batch["documents"], torch.zeros_like(batch["labels"], dtype=torch.bool)
    counted[:, :-1] = batch["labels"][:, 1:] != -100
    with torch.no_grad():
        layers = model(batch["input_ids"], output_hidden_states=True).hidden_states[1:]
        total = 0.0
        for hidden in layers:
            for row, numbers, targets in zip(hidden, documents, counted, strict=True):
                for document in numbers.unique():
                    own = numbers == document
                    value = DispersionLoss(name, engine="eager")(row[own][None])
                    total += float(value) * int(targets[own].sum()) / int(counted.sum()) / len(layers)
    assert terms[f"weighted {name}"] == pytest.approx(0.3 * total, rel=1e-5)


def test_dropout_is_a_function_of_seed_and_step():
    model = build("gpt2").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5

    def loss(seed, step):
        return Update(model_loss, micro_batch=1, seed=seed).accumulate(model, tokens(), step)["the loss"]

    first = loss(0, 5)
    torch.rand(7)
    assert loss(0, 5) == first
    assert len({first, loss(0, 6), loss(1, 5)}) == 3


def test_bfloat16_computes_in_half_and_leaves_weights_and_gradients_in_float32():
    model, seen = build("llama").train(), set()
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    batch = windows()
    del batch["documents"]
    exact = Update().accumulate(model, batch, step=0)
    assert Update(micro_batch=2, bfloat16=True).accumulate(model, batch, step=0) == pytest.approx(exact, rel=1e-2)
    assert seen == {torch.float32, torch.bfloat16}
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def share_a_batch(rank, ranks):
    model = build("llama").double().train()
    with attach(model, DispersionLoss(), weight=ARM.weight, add_to_loss=False) as handle:
        update = Update(_objective(handle, ARM), micro_batch=2, wrapped=over_ranks(model))
        terms = update.accumulate(model, windows(rows=5), step=0)
        try:
            update.accumulate(model, windows(rows=1), step=0)
        except UserError as error:
            terms["told"] = str(error)
    return terms, [parameter.grad.numpy() for parameter in model.parameters()]


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
def test_two_processes_give_the_gradient_of_one(tmp_path):
    model = build("llama").double().train()
    with attach(model, DispersionLoss(), weight=ARM.weight, add_to_loss=False) as handle:
        expected = Update(_objective(handle, ARM)).accumulate(model, windows(rows=5), step=0)
    terms, found = found_by_ranks(share_a_batch, tmp_path)
    assert terms.pop("told").startswith("a batch of 1 windows cannot be shared by 2 processes")
    assert terms == pytest.approx(expected, rel=1e-6)
    assert math.isfinite(terms["weighted dispersion"])
    for one, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), parameter.grad, rtol=1e-5, atol=1e-7)
