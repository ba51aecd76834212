"""What is true of every formulation, mask, document and choice of pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decondense import DispersionLoss, Partition, Subset, UserError
from decondense.losses.formulations import FORMULATIONS

COSINE = [name for name, row in FORMULATIONS.items() if row.transform.name == "unit_tokens"]
SAMPLED = [name for name, row in FORMULATIONS.items() if row.function is None and not row.features]
names = pytest.mark.parametrize("name", FORMULATIONS)


def random_hidden(seed, batch=2, length=12, features=6, mean=0.5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, features, generator=generator, dtype=torch.float64) + mean


def value_and_gradient(loss, hidden, **arguments):
    hidden = hidden.clone().requires_grad_()
    value = loss(hidden, **arguments)
    value.backward()
    return value.detach(), hidden.grad


def rotation(features, seed):
    matrix = torch.randn(features, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


@pytest.mark.parametrize("name", COSINE)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 100))
@settings(max_examples=15)
def test_rotation_and_scale_leave_cosine_losses_alone(name, seed, scale):
    hidden = random_hidden(seed)
    loss = DispersionLoss(name, epsilon=0.0)
    changed = loss(hidden @ rotation(6, seed) * scale)
    # float64 rounding of a rotation, of values of order one
    torch.testing.assert_close(changed, loss(hidden), rtol=1e-9, atol=1e-10)


@names
@given(seed=st.integers(0, 2**31), keep=st.lists(st.booleans(), min_size=12, max_size=12).filter(lambda k: sum(k) >= 2))
@settings(max_examples=15)
def test_masking_equals_removing(name, seed, keep):
    hidden, keep = random_hidden(seed, batch=1), torch.tensor(keep)[None]
    loss = DispersionLoss(name)
    garbage = hidden.masked_fill(~keep[..., None], math.nan)
    value, gradient = value_and_gradient(loss, garbage, mask=keep)
    expected, expected_gradient = value_and_gradient(loss, hidden[:, keep[0]])
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient[:, keep[0]], expected_gradient, rtol=1e-8, atol=1e-12)
    assert (gradient[:, ~keep[0]] == 0).all()


@names
@given(seed=st.integers(0, 2**31), ids=st.lists(st.integers(0, 3), min_size=12, max_size=12))
@settings(max_examples=15)
def test_documents_equal_separate_sequences(name, seed, ids):
    hidden, documents = random_hidden(seed, batch=1), torch.tensor(ids)[None]
    loss = DispersionLoss(name)
    values, tokens = loss.per_sequence(hidden, documents=documents)
    in_row_order = list(dict.fromkeys(ids))
    expected = [loss.per_sequence(hidden[:, documents[0] == number]) for number in in_row_order]
    torch.testing.assert_close(values, torch.cat([value for value, _ in expected]), rtol=1e-10, atol=1e-12)
    assert tokens.tolist() == [ids.count(number) for number in in_row_order]


@names
def test_mixed_rows_masks_and_documents(name):
    hidden = random_hidden(3, batch=3, length=10)
    mask = torch.tensor([[1] * 10, [0, 0, 0] + [1] * 7, [1] * 4 + [0] * 6])
    documents = torch.tensor([[7] * 4 + [2] * 6, [5] * 10, [1] * 2 + [0] * 8])
    loss = DispersionLoss(name)
    values, tokens = loss.per_sequence(hidden, mask, documents)
    parts = [hidden[0:1, :4], hidden[0:1, 4:], hidden[1:2, 3:], hidden[2:3, :2], hidden[2:3, 2:4]]
    torch.testing.assert_close(values, torch.stack([loss(part) for part in parts]), rtol=1e-10, atol=1e-12)
    assert tokens.tolist() == [4, 6, 7, 2, 2]


@names
def test_order_of_tokens_does_not_matter(name):
    hidden = random_hidden(5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        DispersionLoss(name)(hidden[:, order]), DispersionLoss(name)(hidden), rtol=1e-10, atol=1e-12
    )


@names
def test_gradient_is_the_derivative_twice(name):
    # Beyond the clamp the slope is kept on purpose and is no derivative: these cosines lie inside.
    hidden = random_hidden(11, batch=2, length=5, features=8, mean=0.0).requires_grad_()
    assert torch.autograd.gradcheck(DispersionLoss(name, clamp=0.05), (hidden,))
    loss = DispersionLoss(name, clamp=0.05, engine="eager")
    assert torch.autograd.gradcheck(loss, (hidden,))
    assert torch.autograd.gradgradcheck(loss, (hidden,), atol=1e-4)


@names
def test_fewer_than_two_tokens_contribute_nothing(name):
    hidden = random_hidden(2, batch=3)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 1:] = False
    mask[2] = False
    value, gradient = value_and_gradient(DispersionLoss(name), hidden, mask=mask)
    torch.testing.assert_close(value, DispersionLoss(name)(hidden[:1]), rtol=1e-12, atol=1e-12)
    assert (gradient[1:] == 0).all()
    value, gradient = value_and_gradient(DispersionLoss(name), hidden, mask=torch.zeros_like(mask))
    assert value == 0
    assert (gradient == 0).all()


@names
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("pairs", ["all", Subset(2)], ids=str)
def test_a_broken_number_is_never_hidden(name, bad, pairs):
    hidden = random_hidden(4)
    hidden[1, 3, 2] = bad
    assert DispersionLoss(name, pairs=pairs)(hidden).isnan()


@names
@pytest.mark.parametrize(
    "hidden",
    [torch.zeros(1, 6, 4), torch.ones(1, 6, 4), 1e4 * torch.eye(6)[None], torch.ones(2, 2, 1)],
    ids=["zero", "equal", "large", "one feature"],
)
def test_degenerate_vectors_give_finite_numbers(name, hidden):
    value, gradient = value_and_gradient(DispersionLoss(name), hidden)
    assert value.isfinite()
    assert gradient.isfinite().all()


@names
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    hidden = random_hidden(6).to(dtype)
    value, gradient = value_and_gradient(DispersionLoss(name), hidden)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, DispersionLoss(name)(hidden.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(value, DispersionLoss(name)(hidden))


def test_small_temperature_does_not_underflow():
    hidden = random_hidden(8).float()
    value, gradient = value_and_gradient(DispersionLoss("dispersion", temperature=1e-3), hidden)
    exact = DispersionLoss("dispersion", temperature=1e-3)(hidden.double())
    # float32 angles divided by 1e-3: an error of 1e-7 in theta is 1e-4 in the logit
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    assert gradient.abs().max() > 0


# --- sampling -----------------------------------------------------------------------------------------------------------------------


def pair_sum(name, hidden, pairs, step):
    """The sum that sampling makes unbiased: before the logarithm."""
    value = DispersionLoss(name, pairs=pairs)(hidden, step=step)
    row = FORMULATIONS[name]
    penalty = row.penalty(hidden).mean() if row.penalty else 0.0
    return (value - penalty).exp() if row.aggregate.startswith("log") else value - penalty


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("length", [13, 16])
def test_expectation_of_a_partition_is_the_exact_sum(name, length):
    hidden = random_hidden(21, batch=1, length=length, features=8, mean=0.3)
    draws = torch.stack([pair_sum(name, hidden, Partition(4, seed=1), step) for step in range(800)])
    exact = pair_sum(name, hidden, "all", 0)
    error = draws.std() / math.sqrt(len(draws))
    # Fixed seed; 4 standard errors would fail one seed in 16,000 if the estimator were unbiased
    assert abs(draws.mean() - exact) < 4 * error + 1e-12
    assert draws.std() > 0 or name == "infonce_l2"


@pytest.mark.parametrize("name", SAMPLED)
def test_one_group_and_whole_subset_are_all_pairs(name):
    hidden = random_hidden(22)
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, :5] = 0
    documents = torch.arange(12).expand(2, 12) // 5
    for arguments in ({}, {"mask": mask}, {"mask": mask, "documents": documents}):
        expected, expected_gradient = value_and_gradient(DispersionLoss(name), hidden, **arguments)
        for pairs in (Partition(12), Subset(12)):
            value, gradient = value_and_gradient(DispersionLoss(name, pairs=pairs), hidden, **arguments)
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "arguments", [{}, {"mask": True}, {"mask": True, "documents": True}], ids=["plain", "mask", "documents"]
)
@pytest.mark.parametrize("size", [2, 5, 12])
def test_a_partition_holds_every_token_once(arguments, size):
    from decondense.losses.pairs import form_groups
    from decondense.sums import find_sequences

    length = 17
    hidden = torch.arange(1, 2 * length + 1, dtype=torch.float64).view(2, length, 1)
    mask = None
    if "mask" in arguments:
        mask = torch.ones(2, length, dtype=torch.bool)
        mask[1, 9:] = False
    real = torch.ones(2, length, dtype=torch.bool) if mask is None else mask
    documents = (torch.arange(length) // 6).expand(2, length) if "documents" in arguments else None
    sequences = find_sequences((2, length), hidden.device, mask, documents)
    grouping = form_groups(sequences, Partition(size), 3, 1)
    tokens = grouping.gather(hidden)
    valid = torch.ones(tokens.shape[:2], dtype=torch.bool) if grouping.valid is None else grouping.valid
    assert (tokens[~valid] == 0).all()
    assert sorted(tokens[valid].flatten().tolist()) == hidden[real].flatten().tolist()
    for number in range(len(sequences.tokens)):
        groups = grouping.sequence == number
        members = tokens[groups][valid[groups]].flatten()
        assert sorted(members.tolist()) == hidden[(sequences.index == number) & real].flatten().tolist()
        sizes = [count for count in valid[groups].sum(dim=1).tolist() if count]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= size


def test_draws_follow_seed_step_and_layer():
    hidden = random_hidden(30, batch=1, length=64)

    def value(seed=0, step=0, layer=0):
        return DispersionLoss(pairs=Partition(8, seed=seed))(hidden, step=step, layer=layer).item()

    assert value() == value()
    assert len({value(), value(seed=1), value(step=1), value(layer=1)}) == 4
    loss = DispersionLoss(pairs=Partition(8))
    assert loss(hidden) == value(step=0)
    loss.step.add_(1)
    assert loss(hidden) == value(step=1)


def test_subset_is_the_loss_of_the_chosen_tokens():
    hidden = random_hidden(31, batch=2, length=9)
    hidden.requires_grad_()
    loss = DispersionLoss("infonce_cosine", pairs=Subset(4))
    value = loss(hidden)
    value.backward()
    chosen = hidden.grad.abs().sum(dim=-1) > 0
    assert chosen.sum(dim=1).tolist() == [4, 4]
    expected = torch.stack(
        [DispersionLoss("infonce_cosine")(row[kept][None]) for row, kept in zip(hidden, chosen, strict=True)]
    ).mean()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


# --- bad input ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formulation": "dispersal"}, "formulation 'dispersal' is not known: did you mean 'dispersion'"),
        ({"temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"clamp": 0.0}, "clamp=0.0: expected a number between 0 and 1"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"pairs": "some"}, "pairs='some' is not known"),
        ({"engine": "fast"}, "engine 'fast' is not known"),
        ({"formulation": "koleo", "pairs": Partition(4)}, "koleo is no sum over pairs"),
        ({"formulation": "covariance", "pairs": Partition(4)}, "covariance pairs features"),
    ],
)
def test_wrong_settings_are_told_in_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        DispersionLoss(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_groups_of_one_are_refused():
    with pytest.raises(UserError, match=r"Partition\(1\): a group needs at least 2 tokens"):
        Partition(1)
    with pytest.raises(UserError, match=r"Subset\(1\): a subset needs at least 2 tokens"):
        Subset(1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden": torch.ones(2, 3, 4, dtype=torch.int64)}, TypeError, "hidden: expected a floating-point tensor"),
        (
            {"hidden": torch.ones(3, 4)},
            ValueError,
            r"expected shape \[batch, length, features\], none of them 0, got \[3, 4\]",
        ),
        ({"hidden": torch.ones(2, 0, 4)}, ValueError, r"got \[2, 0, 4\]"),
        (
            {"mask": torch.ones(2, 4, dtype=torch.bool)},
            ValueError,
            r"mask: expected shape \[2, 3\] as hidden has, got \[2, 4\]",
        ),
        ({"mask": torch.ones(2, 3)}, TypeError, "mask: expected a bool or integer tensor"),
        ({"documents": torch.ones(2, 3)}, TypeError, "documents: expected a integer tensor"),
    ],
)
def test_wrong_tensors_are_told(arguments, error, message):
    with pytest.raises(error, match=message):
        DispersionLoss()(**{"hidden": torch.ones(2, 3, 4), **arguments})


def test_strides_do_not_matter():
    hidden = random_hidden(40)
    transposed = hidden.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(DispersionLoss()(transposed), DispersionLoss()(hidden))
