"""What `attach` adds to a model's loss, how it weighs sequences, and that it leaves no trace."""

import gc
import json
import os
import subprocess
import sys
import weakref

import pytest
import torch
from models import CONFIGS, ENCODERS, build, tokens
from torch import nn

from decondense import DispersionLoss, Partition, UserError, attach

LOSS = DispersionLoss("dispersion")


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def padded(lengths, seed=0):
    """Rows of unequal length, padded at the right: ids, mask, labels."""
    ids = tokens(len(lengths), max(lengths), seed)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_the_models_plus_the_formula(name):
    model = build(name).train()
    ids = tokens()
    labels = ids if name not in ENCODERS else ids.masked_fill(ids % 3 > 0, -100)
    plain = model(ids, labels=labels, output_hidden_states=True)
    of_row = torch.stack([LOSS.per_sequence(hidden)[0] for hidden in plain.hidden_states[1:]]).mean(dim=0)
    counted = (labels[:, 1:] if name not in ENCODERS else labels).ne(-100).sum(dim=1)
    term = (of_row * counted).sum() / counted.sum()
    with attach(model, DispersionLoss("dispersion"), weight=0.3):
        output = model(ids, labels=labels)
    torch.testing.assert_close(added := output.loss - plain.loss, 0.3 * term, rtol=1e-4, atol=1e-6)
    assert added.abs() > 1e-3


def test_the_handle_gives_the_term_and_its_gradient():
    model = build("gpt2").train()
    ids = tokens()
    with attach(model, DispersionLoss(), weight=0.5) as handle:
        with_term = model(ids, labels=ids).loss
        with_term.backward()
        expected = gradients(model)
        term = handle.loss()
    model.zero_grad()
    with attach(model, DispersionLoss(), add_to_loss=False) as handle:
        output = model(ids, labels=ids)
        torch.testing.assert_close(handle.loss(), term)
        (output.loss + 0.5 * handle.loss()).backward()
    torch.testing.assert_close(gradients(model), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("layers", "indices"),
    [("all", [1, 2, 3]), ("last", [3]), ("early_half", [1]), ("late_half", [2, 3]), ([0, -1], [0, 3]), ([2], [2])],
)
def test_layers_by_name_and_index(layers, indices):
    model = build("gpt2").train()
    ids = tokens()
    hidden = model(ids, output_hidden_states=True).hidden_states
    with attach(model, DispersionLoss(), layers=layers) as handle:
        model(ids, labels=ids)
        assert handle.layers == indices
        expected = torch.stack([LOSS(hidden[index]) for index in indices]).mean()
        torch.testing.assert_close(handle.loss(), expected, rtol=1e-5, atol=1e-6)


def test_sequences_are_weighted_as_cross_entropy_weights_them():
    model = build("llama").train()
    batch = padded([9, 4, 1, 6])
    hidden = model(**batch, output_hidden_states=True).hidden_states[-1]
    values, counts = LOSS.per_sequence(hidden, batch["attention_mask"])
    targets = (counts - 1).clamp(min=0)
    with attach(model, DispersionLoss(), layers="last") as handle:
        model(**batch)
        torch.testing.assert_close(handle.loss(), (values * targets).sum() / targets.sum(), rtol=1e-5, atol=1e-6)
        model(**batch, num_items_in_batch=torch.tensor(40))
        torch.testing.assert_close(handle.loss(), (values * targets).sum() / 40, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulation", [2, 4])
@pytest.mark.parametrize("side", ["right", "left"])
def test_accumulation_gives_the_same_gradient(accumulation, side):
    model = build("gpt2").train()
    batch = padded([9, 4, 7, 2, 8, 8, 3, 5])
    if side == "left":
        batch = {name: value.flip(1) for name, value in batch.items()}
    total = batch["labels"][:, 1:].ne(-100).sum()
    with attach(model, DispersionLoss(), weight=1.0):
        model(**batch).loss.backward()
        expected = gradients(model)
        model.zero_grad()
        for part in range(accumulation):
            rows = slice(part * 8 // accumulation, (part + 1) * 8 // accumulation)
            model(**{name: value[rows] for name, value in batch.items()}, num_items_in_batch=total).loss.backward()
    # float32 sums in another order
    torch.testing.assert_close(gradients(model), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["position_ids", "seq_idx", "cu_seq_lens_q", "handle"])
def test_documents_of_a_packed_row_are_sequences(how):
    model = build("llama").train()
    lengths = [4, 3, 5]
    ids = tokens(1, 12)
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    given = {"input_ids": ids, "labels": ids.clone().masked_fill(positions == 0, -100), "position_ids": positions}
    hidden = model(**given, output_hidden_states=True).hidden_states[-1]
    values, _ = LOSS.per_sequence(hidden, documents=documents)
    expected = (values * torch.tensor([3.0, 2.0, 4.0])).sum() / 9
    if how == "cu_seq_lens_q":
        given["cu_seq_lens_q"] = torch.tensor([0, 4, 7, 12], dtype=torch.int32)
    if how == "seq_idx":
        given["seq_idx"] = documents.int()
    with attach(model, DispersionLoss(), layers="last") as handle:
        if how == "handle":
            handle.documents = documents
        model(**given)
        torch.testing.assert_close(handle.loss(), expected, rtol=1e-5, atol=1e-6)


def test_evaluation_is_untouched():
    model = build("gpt2")
    ids = tokens()
    plain = model(ids, labels=ids).loss
    with attach(model, DispersionLoss(), weight=5.0) as handle:
        assert torch.equal(model(ids, labels=ids).loss, plain)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(ids, labels=ids).loss, plain)
            model(ids)  # no labels, and none needed
        with pytest.raises(RuntimeError, match="no term yet"):
            handle.loss()


def test_detach_leaves_no_trace():
    model = build("gpt2").train()
    ids = tokens()
    before = set(model.__dict__)
    plain = model(ids, labels=ids).loss
    handle = attach(model, DispersionLoss(), weight=5.0)
    with pytest.raises(UserError, match="attached already; call .detach"):
        attach(model, DispersionLoss())
    changed = model(ids, labels=ids).loss
    assert not torch.equal(changed, plain)
    handle.detach()
    assert torch.equal(model(ids, labels=ids).loss, plain)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert set(model.__dict__) == before
    attach(model, DispersionLoss()).detach()


def test_detaching_twice_and_letting_go():
    model = build("gpt2").train()
    first = attach(model, DispersionLoss())
    first.detach()
    second = attach(model, DispersionLoss())
    first.detach()
    with pytest.raises(UserError, match="attached already"):
        attach(model, DispersionLoss())
    gone = weakref.ref(model)
    del model, first, second
    gc.collect()
    assert gone() is None


def test_a_training_pass_without_labels_is_refused():
    model = build("gpt2").train()
    with attach(model, DispersionLoss()), pytest.raises(UserError, match="returned no loss.*add_to_loss=False"):
        model(tokens())
    with attach(model, DispersionLoss(), add_to_loss=False) as handle:
        model(tokens())
        assert handle.loss().requires_grad


def test_a_tuple_of_outputs():
    model = build("gpt2").train()
    ids = tokens()
    plain = model(ids, labels=ids, return_dict=False)
    with attach(model, DispersionLoss(), weight=2.0) as handle:
        changed = model(ids, labels=ids, return_dict=False)
        assert isinstance(changed, tuple)
        torch.testing.assert_close(changed[0], plain[0] + 2.0 * handle.loss())


def test_a_mask_of_four_dimensions_needs_documents():
    model = build("llama").train()
    ids = tokens(1, 6)
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    with attach(model, DispersionLoss()) as handle:
        with pytest.raises(UserError, match=r"attention_mask \[1, 1, 6, 6\]: padding and documents cannot be read"):
            model(ids, attention_mask=mask, labels=ids)
        handle.documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
        model(ids, attention_mask=mask, labels=ids)


@pytest.mark.parametrize("pairs", ["all", Partition(3)], ids=str)
def test_gradient_checkpointing_changes_nothing(pairs):
    model = build("gpt2").train()
    ids = tokens()
    with attach(model, DispersionLoss(pairs=pairs), weight=1.0) as handle:
        state = handle.state_dict()
        model(ids, labels=ids).loss.backward()
        expected = gradients(model)
        for reentrant in (False, True):
            model.zero_grad()
            handle.load_state_dict(state)
            # transformers 5 renamed it
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
            if reentrant:
                model.enable_input_require_grads()
            model(ids, labels=ids).loss.backward()
            torch.testing.assert_close(gradients(model), expected, rtol=1e-4, atol=1e-6)


class HooksInside(nn.Module):
    """Blocks whose hooks run inside the checkpoint, as transformers 4.48 to 5.0 have them."""

    def __init__(self, reentrant):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.norm = nn.LayerNorm(8)
        self.reentrant = reentrant

    def forward(self, input_ids, labels=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            if self.reentrant is None:
                hidden = layer(hidden)
            else:
                hidden = torch.utils.checkpoint.checkpoint(layer, hidden, use_reentrant=self.reentrant)
        return {"loss": self.norm(hidden).square().mean()}


def test_hooks_inside_a_checkpoint():
    torch.manual_seed(0)
    model = HooksInside(None).train()
    with attach(model, DispersionLoss(pairs=Partition(3)), weight=1.0) as handle:
        state = handle.state_dict()
        model(tokens(), labels=tokens())["loss"].backward()
        expected = gradients(model)
        model.zero_grad()
        handle.load_state_dict(state)
        model.reentrant = False
        model(tokens(), labels=tokens())["loss"].backward()
        torch.testing.assert_close(gradients(model), expected)
        model.reentrant = True
        with pytest.raises(UserError, match="run without gradients.*use_reentrant"):
            model(tokens(), labels=tokens())


def test_what_was_compiled_and_called_before_is_told(root):
    """In a process of its own: torch.compile cannot go through the shape checks of the tests."""
    script = root / "tests" / "attach_late.py"
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=given, timeout=300)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    told = "attach before the first call of a compiled model, or call torch.compiler.reset() and then attach"
    assert found["outside"].endswith(told)
    assert found["in place"].endswith(told)
    # Of a compiled body the end alone shows: a loss on that would be another, without a sound.
    assert found["body"].endswith(told)
    assert found["after reset"] == pytest.approx(found["not compiled"], rel=1e-5)
    assert found["last layer of a compiled body"] == pytest.approx(found["last layer"], rel=1e-5)


def test_random_pairs_are_drawn_anew_and_resumed():
    model = build("gpt2").train()
    ids = tokens()
    terms = []
    with attach(model, DispersionLoss(pairs=Partition(3)), layers="last") as handle:
        for _ in range(3):
            model(ids, labels=ids)
            terms.append(handle.loss().item())
        assert len(set(terms)) == 3
        handle.weight = 0.7
        state = handle.state_dict()
        assert state == {"step": 3, "weight": 0.7, "chosen": None}
        model(ids, labels=ids)
        following = handle.loss().item()
    with attach(model, DispersionLoss(pairs=Partition(3)), layers="last") as handle:
        handle.load_state_dict(state)
        model(ids, labels=ids)
        assert handle.loss().item() == following
        assert handle.weight == 0.7


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft asks by the old name
def test_lora_through_peft():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = build("gpt2").train()
    ids = tokens()
    hidden = model(ids, output_hidden_states=True).hidden_states
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    )
    adapted.train()
    with attach(adapted, DispersionLoss(), weight=1.0) as handle:
        output = adapted(input_ids=ids, labels=ids)
        output.loss.backward()
        # a fresh adapter changes nothing
        torch.testing.assert_close(
            handle.loss(), torch.stack([LOSS(layer) for layer in hidden[1:]]).mean(), rtol=1e-5, atol=1e-6
        )
    trained = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("layers", ["some", [4], [1, 1], []])
def test_unknown_layers_are_told(layers):
    with pytest.raises(UserError, match="layers"):
        attach(build("gpt2"), DispersionLoss(), layers=layers)


def test_labels_of_another_length_are_told():
    model = build("bert", head=False).train()
    with attach(model, DispersionLoss(), add_to_loss=False) as handle:
        handle.documents = torch.zeros(2, 5, dtype=torch.long)
        with pytest.raises(UserError, match=r"documents has shape \[2, 5\] where the hidden states have \[2, 9\]"):
            model(tokens())


def test_a_loss_that_its_trainer_does_not_use_is_told():
    model, ids = build("gpt2").train(), tokens()
    # As TRL's head does it: the trainer sums the log-probabilities, and leaves the model's loss alone.
    model.register_forward_hook(lambda module, args, output: output.__setitem__("log_probs", -torch.ones(2, 8)))
    told = r"attach_to_sft\(trainer, ...\), or attach with add_to_loss=False"
    with attach(model, LOSS), pytest.raises(UserError, match=told):
        model(ids, labels=ids)
    with attach(model, LOSS, add_to_loss=False) as handle:
        model(ids, labels=ids)
        assert handle.loss().isfinite()
        model.eval()(ids, labels=ids)


def test_the_state_of_a_handle_holds_its_step_weight_and_chosen_layers():
    model, ids = build("gpt2").train(), tokens()
    with attach(model, DispersionLoss(pairs=Partition(3)), weight=0.7) as handle:
        model(ids, labels=ids)
        handle.chosen = [3, 1]
        state = handle.state_dict()
    assert state == {"step": 1, "weight": 0.7, "chosen": [1, 3]}
    with attach(model, DispersionLoss(pairs=Partition(3))) as handle:
        handle.load_state_dict(state)
        assert handle.state_dict() == state
