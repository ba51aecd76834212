"""A student's loss is what its papers define, adds up over parts and ranks as cross entropy does, and leaves the teacher alone."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import transformers
from models import COMMON, build, tokens
from spawned import found_by_ranks
from torch import nn

from decondense import DispersionLoss, UserError, attach
from decondense.texts import tokenizer as tokenizers
from decondense.train import teacher as room
from decondense.train.arms import Arm
from decondense.train.distill_config import DistillConfig
from decondense.train.distillation import Projections, counted, divergence, hidden_distance, match_layers
from decondense.train.run import _objective, cross_entropy
from decondense.train.teacher import Distillation, check_same_tokens, count_tokens
from decondense.train.update import Update, over_ranks

ARM = Arm("dispersion", "dispersion", 0.5)
TOKENS = 50


def logits(seed, vocabulary=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(3, 7, vocabulary, generator=generator, dtype=dtype)


def labels(rows=3, length=7, ignored=4):
    ids = tokens(rows, length, seed=5)
    return ids.masked_fill((torch.arange(rows)[:, None] * 2 + torch.arange(length)) % ignored == 0, -100)


def defined(student, teacher, given, temperature, total=None):
    """The mean over targets of T^2 KL, written down token by token."""
    values = []
    for row in range(len(given)):
        for place in range(given.shape[1] - 1):
            if given[row, place + 1] != -100:
                p = torch.softmax(teacher[row, place] / temperature, dim=0)
                q = torch.softmax(student[row, place] / temperature, dim=0)
                values.append(temperature**2 * (p * (p / q).log()).sum())
    return torch.stack(values).sum() / (total or len(values))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("block", [1, 30, 1 << 24])
def test_the_divergence_and_its_gradient_are_those_of_the_definition(temperature, block):
    given, taught = labels(), logits(1)
    mine, theirs = (logits(0).requires_grad_() for _ in range(2))
    expected = defined(mine, taught, given, temperature)
    found = divergence(theirs, taught, counted(given, None), temperature, block=block)
    (3 * expected).backward()
    (3 * found).backward()
    # The weights of tokens, 1 / targets, are float32.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-6, atol=1e-12)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    same = logits(0).requires_grad_()
    value = divergence(same, same, counted(labels(), None), 2.0)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert same.grad.abs().max() < 1e-12


def test_at_high_temperature_it_is_half_the_squared_distance_of_centred_logits():
    """Hinton et al. 2015, section 2.1: matching logits is the limit."""
    one, other, given = logits(0), logits(1), labels()
    found = divergence(one, other, counted(given, None), 1e4)
    gap = (one - one.mean(-1, keepdim=True)) - (other - other.mean(-1, keepdim=True))
    expected = (gap.square().mean(-1) / 2 * counted(given, None)).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)  # the next order of the expansion is 1 / T


def test_logits_are_cut_to_the_common_vocabulary():
    given, one, other = labels(), logits(0, 14), logits(1, 16)
    one.requires_grad_()
    found = divergence(one, other, counted(given, None), 2.0, vocabulary=11)
    assert found.item() == pytest.approx(defined(one[..., :11], other[..., :11], given, 2.0).item(), rel=1e-6)
    found.backward()
    assert not one.grad[..., 11:].any() and one.grad[..., :11].any()
    # Without a limit the smaller of the two is all that both have.
    cut = divergence(one, other, counted(given, None), 2.0)
    assert cut.item() == pytest.approx(defined(one, other[..., :14], given, 2.0).item(), rel=1e-6)


def test_what_cross_entropy_does_not_count_does_not_matter():
    given, one, other = labels(), logits(0), logits(1)
    weights = counted(given, None)
    expected = divergence(one, other, weights, 2.0)
    one[weights == 0] = torch.nan
    one.requires_grad_()
    found = divergence(one, other, weights, 2.0)
    found.backward()
    assert found == expected
    assert not one.grad[weights == 0].any()


def test_a_token_that_the_teacher_rules_out_adds_nothing_and_a_nan_is_not_hidden():
    given, one, other = labels(), logits(0), logits(1)
    other[..., 4] = -torch.inf
    kept = [index for index in range(11) if index != 4]
    q = one.log_softmax(-1)[..., kept]
    p = other[..., kept].softmax(-1)
    expected = ((p * (p.log() - q)).sum(-1) * counted(given, None)).sum()
    assert divergence(one, other, counted(given, None)).item() == pytest.approx(expected.item(), rel=1e-6)
    other[0, 0] = torch.nan
    assert divergence(one, other, torch.ones(3, 7)).isnan()


def test_the_gradient_comes_once_and_in_the_type_of_the_logits():
    one = logits(0, dtype=torch.float32).bfloat16().requires_grad_()
    value = divergence(one, logits(1).bfloat16(), counted(labels(), None), 2.0)
    assert value.dtype == torch.float32
    value.backward(retain_graph=True)
    assert one.grad.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="a second time"):
        value.backward()
    with pytest.raises(UserError, match="temperature 0.0"):
        divergence(one, one, counted(labels(), None), 0.0)


def test_tokens_weigh_as_in_cross_entropy():
    given, one = labels(), logits(0, TOKENS)
    each = nn.functional.cross_entropy(one[:, :-1].flatten(0, 1), given[:, 1:].flatten(), reduction="none")
    mean = nn.functional.cross_entropy(one[:, :-1].flatten(0, 1), given[:, 1:].flatten())
    assert (counted(given, None)[:, :-1].flatten() * each).sum().item() == pytest.approx(mean.item(), rel=1e-6)
    assert counted(given, torch.tensor(40)).sum().item() == pytest.approx((given[:, 1:] != -100).sum().item() / 40)
    assert not counted(torch.full((2, 5), -100), None).any()


# --- hidden states ------------------------------------------------------------------------------------------------------------------


def test_layers_are_matched_evenly_and_the_last_with_the_last():
    assert match_layers(3, 12) == [(1, 4), (2, 8), (3, 12)]
    assert match_layers(4, 2) == [(1, 1), (2, 1), (3, 2), (4, 2)]
    for student in range(1, 9):
        for teacher in range(1, 9):
            pairs = match_layers(student, teacher)
            chosen = [layer for _, layer in pairs]
            assert [layer for layer, _ in pairs] == list(range(1, student + 1))
            assert chosen == sorted(chosen) and chosen[-1] == teacher and chosen[0] >= 0


def test_hidden_states_are_half_the_squared_distance_of_unit_vectors_apart():
    given = labels()
    one, other, matrix = logits(0, 6), logits(1, 9), logits(2, 6)[0, :1].expand(9, 6).cumsum(0)
    weights = counted(given, None)
    mapped = one @ matrix.T
    gap = nn.functional.normalize(mapped, dim=-1) - nn.functional.normalize(other, dim=-1)
    expected = (gap.square().sum(-1) / 2 * weights).sum()
    assert hidden_distance(one, other, weights, matrix).item() == pytest.approx(expected.item(), rel=1e-9)
    assert hidden_distance(one, 3 * one, weights).item() == pytest.approx(0.0, abs=1e-9)
    assert hidden_distance(one, -one, weights).item() == pytest.approx(2.0)


def test_projections_are_drawn_from_their_seed_alone():
    before = torch.random.get_rng_state()
    drawn = [Projections(2, 16, 5, seed).weight for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert drawn[0].shape == (2, 5, 16)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].abs().max() <= 0.25


# --- a teacher and its student ------------------------------------------------------------------------------------------------------


def wide():
    """A teacher that is wider and deeper than the student, with rows of embeddings that are no tokens."""
    sizes = {**COMMON, "vocab_size": 56, "hidden_size": 48, "num_hidden_layers": 5, "num_key_value_heads": 2}
    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).double().eval().requires_grad_(False)


def windows(rows=6, length=12):
    """Packed windows whose documents, and whose labels, differ in number."""
    ids = tokens(rows, length, seed=3)
    documents = torch.stack([torch.arange(length) // size for size in (3, 12, 5, 4, 7, 11)])[:rows]
    return {"input_ids": ids, "labels": labels(rows, length, 5), "documents": documents}


AIM = {"temperature": 2.0, "alpha": 0.7, "hidden_weight": 0.3}


def gradients(micro_batch, batch, aim=AIM, ranks=None):
    model = build("llama").double().train()
    with (
        attach(model, DispersionLoss(), weight=ARM.weight, add_to_loss=False) as handle,
        Distillation(wide(), TOKENS, **aim)(model, ARM, 0) as base,
    ):
        objective = _objective(handle, ARM, base)
        update = Update(objective, micro_batch, wrapped=None if ranks is None else over_ranks(model))
        terms = update.accumulate(model, batch, step=0)
        found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return terms, found


def test_the_terms_are_those_of_their_definitions():
    terms, found = gradients(0, windows())
    batch, student, teacher = windows(), build("llama").double(), wide()
    del batch["documents"]
    given = batch["labels"]
    with torch.no_grad():
        mine = student(**batch, output_hidden_states=True)
        theirs = teacher(batch["input_ids"], output_hidden_states=True)
        matrices = Projections(3, 32, 48, 0).weight
        apart = [
            hidden_distance(mine.hidden_states[own], theirs.hidden_states[other], counted(given, None), matrix)
            for (own, other), matrix in zip([(1, 2), (2, 3), (3, 5)], matrices, strict=True)
        ]
    assert terms["weighted cross entropy"] == pytest.approx(0.3 * mine.loss.item(), rel=1e-6)
    kl = defined(mine.logits, theirs.logits[..., :TOKENS], given, 2.0)
    # A llama's own arithmetic is in float32 in places.
    assert terms["weighted distillation"] == pytest.approx(0.7 * kl.item(), rel=1e-5)
    assert terms["weighted hidden states"] == pytest.approx(0.3 * sum(apart).item() / 3, rel=1e-5)
    assert list(terms)[-1] == "weighted dispersion"
    assert found[f"{room.PROJECTIONS}.weight"].abs().sum() > 0


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_parts_add_up_to_the_update_of_the_whole(micro_batch):
    whole, expected = gradients(0, windows())
    terms, found = gradients(micro_batch, windows())
    assert terms == pytest.approx(whole, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def share_a_batch(rank, ranks):
    terms, found = gradients(2, windows(rows=5), ranks=ranks)
    return terms, {name: gradient.numpy() for name, gradient in found.items()}


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
def test_two_processes_give_the_gradient_of_one(tmp_path):
    expected, gradient = gradients(0, windows(rows=5))
    terms, found = found_by_ranks(share_a_batch, tmp_path)
    assert terms == pytest.approx(expected, rel=1e-6)
    for name, one in found.items():
        torch.testing.assert_close(torch.from_numpy(one), gradient[name], rtol=1e-5, atol=1e-7)


def test_the_teacher_stays_as_it_is_and_the_student_is_left_without_a_trace():
    student, teacher = build("llama").train(), wide()
    before = copy.deepcopy(teacher.state_dict())
    names = list(student.state_dict())
    with Distillation(teacher, TOKENS, **AIM)(student, Arm("distillation"), 0) as objective:
        assert list(student.state_dict()) == [*names, f"{room.PROJECTIONS}.weight"]
        batch = windows()
        del batch["documents"]
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        Update(objective).accumulate(student, batch, 0)
        optimizer.step()
    assert list(student.state_dict()) == names
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in [*student.modules(), *teacher.modules()]
    )
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_one_width_needs_no_projection():
    student = build("llama").train()
    with Distillation(build("qwen3"), TOKENS, hidden_weight=1.0)(student, Arm("distillation"), 0) as objective:
        assert not hasattr(student, room.PROJECTIONS)
        batch = windows()
        del batch["documents"]
        assert Update(objective).accumulate(student, batch, 0)["weighted hidden states"] > 0


def test_parts_of_no_weight_are_left_out():
    def names(**options):
        with Distillation(wide(), TOKENS, **options)(build("llama").double(), Arm("distillation"), 0) as objective:
            batch = windows()
            del batch["documents"]
            return list(Update(objective).accumulate(build("llama").double().train(), batch, 0))

    assert names(alpha=1.0) == ["weighted distillation"]
    assert names(alpha=0.5) == ["weighted cross entropy", "weighted distillation"]
    with Distillation(wide(), TOKENS)(build("llama"), Arm("cross_entropy"), 0) as objective:
        assert objective is cross_entropy


def test_the_teachers_precision_is_not_the_students():
    teacher, student, seen = build("llama", seed=1).bfloat16(), build("llama").train(), []
    teacher.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    batch = windows()
    del batch["documents"]
    with Distillation(teacher, TOKENS)(student, Arm("distillation"), 0) as objective:
        Update(objective).accumulate(student, batch, 0)
        Update(objective, bfloat16=True).accumulate(student, batch, 0)
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert {parameter.grad.dtype for parameter in student.parameters()} == {torch.float32}


# --- one tokenizer ------------------------------------------------------------------------------------------------------------------


def test_vocabularies_that_differ_are_told_apart():
    one = tokenizers.train(["the fox sees a dog and the dog sees a fox"] * 9, 280)
    check_same_tokens("big", one, "small", copy.deepcopy(one))
    assert count_tokens(one) == len(one)
    other = tokenizers.train(["quite another story is told by this one here"] * 9, 270)
    with pytest.raises(UserError) as caught:
        check_same_tokens("big", one, "small", other)
    told = str(caught.value)
    names = [{number: token for token, number in given.get_vocab().items()} for given in (one, other)]
    first = next(number for number in range(300) if names[0].get(number) != names[1].get(number))
    assert f"TEACHER big and STUDENT small have different vocabularies: {len(one)} tokens and {len(other)}" in told
    assert f"the first that differs is {first}, {names[0][first]!r} and {names[1][first]!r}" in told
    assert "--from-scratch" in told and "\n" not in told
    more = copy.deepcopy(one)
    more.add_tokens(["<think>"])
    with pytest.raises(UserError, match=f"the first that differs is {len(one)}, absent and '<think>'"):
        check_same_tokens("big", one, "small", more)


def test_the_same_tokens_cut_differently_are_told():
    one = tokenizers.train(["the fox sees a dog and the dog sees a fox"] * 9, 280)
    other = copy.deepcopy(one)
    from tokenizers import normalizers

    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match="tokens and cut text into them differently"):
        check_same_tokens("big", one, "small", other)


# --- options ------------------------------------------------------------------------------------------------------------------------

CPU = DistillConfig("big", "small", device="cpu")


def test_arms_of_a_distillation():
    assert CPU.all_arms() == [Arm("dispersion", "dispersion", 0.1)]
    assert replace(CPU, formulation="distillation").all_arms() == [Arm("distillation")]
    assert replace(CPU, noisy_embedding=5.0).all_arms() == [Arm("noisy_embedding", noise=5.0)]
    named = replace(CPU, arms=("distillation", "cross_entropy", "koleo=2"))
    assert named.all_arms() == [Arm("distillation"), Arm("cross_entropy"), Arm("koleo-2", "koleo", 2.0)]


def test_defaults_follow_from_where_the_student_begins():
    assert CPU.filled(512).context == 512
    assert (CPU.filled(None).learning_rate, CPU.weights) == (5e-5, "small")
    scratch = replace(CPU, from_scratch=True, override=("n_layer=2",))
    assert (scratch.filled(512).context, scratch.filled(64).context, scratch.filled(512).learning_rate) == (
        128,
        64,
        2e-3,
    )
    assert (scratch.weights, scratch.architecture) == ("", ("small", {"n_layer": 2}))


def test_what_is_taken_from_the_teacher_tells_runs_apart():
    [arm] = CPU.all_arms()
    recorded = CPU.filled(None).recorded(arm, 0)
    for other in ({"teacher": "x"}, {"student": "x"}, {"temperature": 3.0}, {"alpha": 0.1}, {"hidden_weight": 1.0}):
        assert replace(CPU, **other).filled(None).recorded(arm, 0) != recorded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0.0: expected a number above 0"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"alpha": 1.5}, "--alpha 1.5: expected a share"),
        ({"hidden_weight": -1.0}, "--hidden-weight -1.0"),
        ({"alpha": 0.0}, "takes nothing from the teacher"),
        ({"override": ("n_layer=2",)}, "give --from-scratch for new weights"),
        ({"student": "tiny"}, "STUDENT tiny: has no weights"),
        ({"formulation": "cross_entropy"}, "known are distillation, "),
        ({"arms": ("distilation",)}, "did you mean 'distillation'"),
        ({"steps": 0}, "--steps 0"),
    ],
)
def test_what_cannot_be_run_is_told(options, message):
    with pytest.raises(UserError, match=message) as caught:
        replace(CPU, **options).check()
    assert "\n" not in str(caught.value)
