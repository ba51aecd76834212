"""Every engine gives what the eager definition gives: value and gradient, for every mask, document and choice of pairs."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from decondense import DispersionLoss, Moments, Partition, Subset, UserError
from decondense.losses import blocked as blocked_room
from decondense.losses import moments as moments_room
from decondense.losses import portions
from decondense.losses.formulations import FORMULATIONS, Settings
from decondense.losses.pairs import form_groups
from decondense.sums import find_sequences

SUMS = [name for name, row in FORMULATIONS.items() if row.slope is not None]
TOKEN_SUMS = [name for name in SUMS if not FORMULATIONS[name].features]
EXPANDED = [name for name, row in FORMULATIONS.items() if row.curvature is not None]
SQUARES = ["frame_potential", "effective_rank", "decorrelation", "decorrelation_tokens", "covariance"]
SHAPE = (3, 17, 7)
# The warning has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*an expansion is far from it there:UserWarning")

LAYOUTS = {
    "plain": {},
    "mask": {"mask": torch.rand(3, 17, generator=torch.Generator().manual_seed(1)) > 0.3},
    "documents": {"documents": (torch.arange(17) // 6).expand(3, 17)},
    "both": {
        "mask": torch.rand(3, 17, generator=torch.Generator().manual_seed(2)) > 0.3,
        "documents": (torch.arange(17) % 3).expand(3, 17),
    },
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks smaller than the groups, of a size that does not divide them."""
    monkeypatch.setitem(portions.BLOCK_OF, "cpu", 5)
    monkeypatch.setitem(portions.PAIRS_AT_ONCE, "cpu", 60)
    monkeypatch.setitem(moments_room.TOKENS_AT_ONCE, "cpu", 7)


def random_hidden(seed=0, shape=SHAPE, mean=0.5, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64) + mean


def value_and_gradient(loss, hidden, **arguments):
    hidden = hidden.clone().requires_grad_()
    values, tokens = loss.per_sequence(hidden, **arguments)
    # Unequal weights: a gradient scaled by the wrong sequence would show.
    (values * torch.arange(1, len(values) + 1)).sum().backward()
    return values.detach(), hidden.grad, tokens


def assert_same(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert (found[1] - expected[1]).abs().max() <= tolerance * max(expected[1].abs().max(), 1.0)
    assert torch.equal(found[2], expected[2])


@layouts
@pytest.mark.parametrize("pairs", ["all", Partition(4, seed=3), Subset(6)], ids=str)
@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_blocked_is_eager(name, pairs, layout, temperature):
    if FORMULATIONS[name].features and isinstance(pairs, Partition):
        pytest.skip("features are not partitioned")
    hidden = random_hidden()
    eager = value_and_gradient(
        DispersionLoss(name, temperature=temperature, pairs=pairs, engine="eager"), hidden, **layout
    )
    found = value_and_gradient(
        DispersionLoss(name, temperature=temperature, pairs=pairs, engine="blocked"), hidden, **layout
    )
    assert_same(found, eager)


@pytest.mark.parametrize("name", SUMS)
def test_recomputing_gives_the_same_gradient(name):
    hidden = random_hidden().requires_grad_()
    loss = DispersionLoss(name)
    sequences = find_sequences(hidden.shape[:2], hidden.device, None, None)
    gradients = [
        torch.autograd.grad(loss.of_sequences(hidden, sequences, recompute=recompute).sum(), hidden)[0]
        for recompute in (False, True)
    ]
    assert torch.equal(*gradients)


def kept_bytes(function, hidden):
    """Bytes that a graph keeps beside its input."""
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() != hidden.untyped_storage().data_ptr():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function(hidden)
    del value
    return sum(kept.values())


@pytest.mark.parametrize("pairs", ["all", Partition(16), Partition(16, control=1), Moments(1)], ids=str)
def test_nothing_of_the_inputs_size_is_kept_when_recomputing(pairs):
    hidden = torch.randn(2, 64, 96).requires_grad_()
    sequences = find_sequences(hidden.shape[:2], hidden.device, None, None)
    loss = DispersionLoss(pairs=pairs)
    kept = kept_bytes(lambda tensor: loss.of_sequences(tensor, sequences, recompute=True), hidden)
    assert kept < hidden.numel() * hidden.element_size() / 10


@pytest.mark.parametrize("name", SUMS)
def test_gradcheck(name):
    # Beyond the clamp the slope is kept on purpose and is no derivative: these cosines lie inside.
    hidden = random_hidden(11, (2, 7, 8), mean=0.0).requires_grad_()
    assert torch.autograd.gradcheck(DispersionLoss(name, clamp=0.05, engine="blocked"), (hidden,))


def test_a_second_derivative_is_refused_with_a_reason():
    hidden = random_hidden().requires_grad_()
    for pairs in ("all", Partition(4), Partition(4, control=1)):
        with pytest.raises(RuntimeError, match="cannot be differentiated again.*engine='eager'"):
            torch.autograd.grad(DispersionLoss(pairs=pairs)(hidden), hidden, create_graph=True)
    for pairs in (Moments(1), Moments(2)):
        (gradient,) = torch.autograd.grad(DispersionLoss(pairs=pairs)(hidden), hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


@pytest.mark.parametrize("name", [name for name in FORMULATIONS if name not in SUMS])
def test_blocked_refuses_what_is_no_sum(name):
    with pytest.raises(UserError, match=f"engine='blocked': {name} is no sum over pairs"):
        DispersionLoss(name, engine="blocked")
    DispersionLoss(name)(random_hidden())  # auto takes eager


@pytest.mark.parametrize("name", SUMS)
def test_slopes_and_curvatures_are_derivatives(name):
    row, settings = FORMULATIONS[name], Settings(temperature=0.7)
    inside = torch.linspace(-0.89, 0.89, 41, dtype=torch.float64)
    beyond = torch.tensor([-0.99, -0.95, 0.95, 0.99], dtype=torch.float64)
    arguments = torch.cat([inside, beyond]).requires_grad_()
    (slope,) = torch.autograd.grad(row.pair(arguments, settings).sum(), arguments, create_graph=True)
    torch.testing.assert_close(row.slope(arguments, settings), slope, rtol=1e-10, atol=1e-12)
    if row.curvature is not None and slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), arguments, allow_unused=True)
        expected = torch.zeros_like(arguments) if curvature is None else curvature
        torch.testing.assert_close(row.curvature(arguments, settings), expected, rtol=1e-9, atol=1e-12)
    elif row.curvature is not None:
        assert (row.curvature(arguments, settings) == 0).all()


@pytest.mark.parametrize("name", [name for name in SUMS if FORMULATIONS[name].logit_bounds])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_logits_stay_inside_their_bounds(name, temperature):
    row, settings = FORMULATIONS[name], Settings(temperature=temperature)
    low, high = row.logit_bounds(settings)
    arguments = torch.linspace(0, 4, 99) if row.distances else torch.linspace(-1, 1, 99)
    logits = row.pair(arguments, settings)
    # float32 rounding of logits up to 80
    assert logits.min() == pytest.approx(low, rel=1e-5)
    assert logits.max() == pytest.approx(high, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_the_backward_pass_of_a_transform_is_its_derivative(name, epsilon):
    tokens = random_hidden(16, (2, 6, 5)).requires_grad_()
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    transform, settings = FORMULATIONS[name].transform, Settings(epsilon=epsilon)
    masked = torch.where(valid[..., None], tokens, 0.0)
    vectors = transform(masked, valid, settings)
    pull = random_hidden(17, vectors.shape)
    (expected,) = torch.autograd.grad(vectors, tokens, pull)
    found = transform.backward(masked.detach(), valid, pull, settings)
    torch.testing.assert_close(torch.where(valid[..., None], found, 0.0), expected, rtol=1e-10, atol=1e-12)


# --- moments ------------------------------------------------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize("name", SQUARES)
@pytest.mark.parametrize("shape", [SHAPE, (3, 17, 40)], ids=["tall", "wide"])
def test_order_two_is_exact_for_squares(name, layout, shape):
    hidden = random_hidden(5, shape)
    assert_same(
        value_and_gradient(DispersionLoss(name, pairs=Moments(2)), hidden, **layout),
        value_and_gradient(DispersionLoss(name, engine="eager"), hidden, **layout),
        1e-11,
    )


@layouts
@pytest.mark.parametrize("name", ["infonce_cosine", "uniformity"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_error_falls_with_the_spread_as_the_order_says(name, layout, order):
    """The first neglected term of order 1 is the variance of the cosines, of order 2 their third moment: halving the spread tells which."""
    errors = []
    for spread in (0.04, 0.02):
        hidden = random_hidden(6, mean=torch.arange(1, 8) / 7, spread=spread)
        loss = {"epsilon": 0.0}
        found, _, _ = value_and_gradient(DispersionLoss(name, pairs=Moments(order), **loss), hidden, **layout)
        exact, _, _ = value_and_gradient(DispersionLoss(name, **loss), hidden, **layout)
        errors.append((found - exact).abs().max().item())
    # Cosines vary as the square of the spread: order 1 errs by its 4th power, order 2 by its 6th.
    assert errors[0] / errors[1] == pytest.approx(2 ** (2 * order + 2), rel=0.25)


@layouts
@pytest.mark.parametrize("order", [1, 2])
def test_expansion_of_dispersion_by_hand(layout, order):
    """log mean of the Taylor polynomial of exp(-theta / t) about the mean cosine, formed from the pairs themselves."""
    hidden = random_hidden(8)
    values, tokens = DispersionLoss(pairs=Moments(order)).per_sequence(hidden, **layout)
    row, settings = FORMULATIONS["dispersion"], Settings()
    mask, documents = layout.get("mask"), layout.get("documents")
    seen = []
    for number in range(3):
        keep = torch.ones(17, dtype=torch.bool) if mask is None else mask[number]
        ids = torch.zeros(17) if documents is None else documents[number]
        for document in dict.fromkeys(ids[keep].tolist()):
            z = hidden[number][keep & (ids == document)]
            u = z / (z.norm(dim=1, keepdim=True) + 1e-2)
            cosines = (u @ u.T)[~torch.eye(len(u), dtype=torch.bool)]
            if len(cosines) == 0:
                seen.append(torch.zeros((), dtype=torch.float64))
                continue
            mean = cosines.mean().requires_grad_()
            phi = row.pair(mean, settings).exp()
            (first,) = torch.autograd.grad(phi, mean, create_graph=True)
            (second,) = torch.autograd.grad(first, mean)
            polynomial = phi + first * (cosines - mean) + (0.5 * second * (cosines - mean) ** 2 if order == 2 else 0)
            seen.append(polynomial.mean().log().detach())
    torch.testing.assert_close(values, torch.stack(seen), rtol=1e-10, atol=1e-12)
    assert len(tokens) == len(seen)


def test_order_one_is_the_angle_of_the_measured_mean_cosine():
    from decondense.geometry.statistics import LayerStatistics

    hidden = random_hidden(9)
    values, _ = DispersionLoss(pairs=Moments(1), temperature=0.5, epsilon=0.0).per_sequence(hidden)
    statistics = LayerStatistics()
    statistics.update(hidden)
    sums = statistics.texts()
    mean = (sums.resultant - sums.norms) / (sums.tokens * (sums.tokens - 1))
    torch.testing.assert_close(values, -mean.clamp(-0.9, 0.9).acos() / math.pi / 0.5, rtol=1e-9, atol=1e-12)


@layouts
@pytest.mark.parametrize("name", ["dispersion", "infonce_cosine", "uniformity"])
def test_orders_one_and_two_have_the_gradient_of_their_value_where_the_coefficients_stand(name, layout):
    """Against finite differences of the expansion whose point and coefficients are held: the general path against the fused one."""
    hidden = random_hidden(10)
    fused = value_and_gradient(DispersionLoss(name, pairs=Moments(1)), hidden, **layout)
    row = FORMULATIONS[name]
    # The same transform under another name takes the path that gathers groups.
    other = dataclasses.replace(row, transform=dataclasses.replace(row.transform, name="another"))
    general = value_and_gradient(DispersionLoss(other, pairs=Moments(1)), hidden, **layout)
    assert_same(fused, general)


@layouts
@pytest.mark.parametrize("control", [1, 2])
@pytest.mark.parametrize("name", [name for name in EXPANDED if not FORMULATIONS[name].features])
def test_a_control_over_one_group_is_exact(name, layout, control):
    hidden = random_hidden(12)
    assert_same(
        value_and_gradient(DispersionLoss(name, pairs=Partition(17, control=control)), hidden, **layout),
        value_and_gradient(DispersionLoss(name, engine="eager"), hidden, **layout),
    )


@pytest.mark.parametrize("control", [1, 2])
@pytest.mark.parametrize("name", [name for name in EXPANDED if not FORMULATIONS[name].features])
def test_a_controlled_sum_is_unbiased_and_narrower(name, control):
    hidden = random_hidden(13, (1, 16, 8), mean=0.6)
    row = FORMULATIONS[name]

    def draw(pairs, step):
        value = DispersionLoss(name, pairs=pairs)(hidden, step=step)
        return value.exp() if row.aggregate.startswith("log") else value

    exact = draw("all", 0)
    controlled = torch.stack([draw(Partition(4, control=control), step) for step in range(400)])
    plain = torch.stack([draw(Partition(4), step) for step in range(400)])
    # Fixed seed; 4 standard errors, and rounding where the control leaves nothing over
    assert abs(controlled.mean() - exact) < 4 * controlled.std() / 20 + 1e-12
    # Correlations have mean 0, where the square has no slope: order 1 takes nothing off them. Everything else narrows.
    nothing_to_take = name == "decorrelation_tokens" and control == 1
    assert controlled.std() < (1.05 if nothing_to_take else 0.9) * plain.std()


def test_where_a_control_does_not_belong():
    able = "dispersion, decorrelation, decorrelation_tokens, infonce_cosine, covariance, uniformity, frame_potential, effective_rank"
    for name in ("l2_repel", "koleo", "hinge_cosine", "orthogonalization"):
        with pytest.raises(UserError, match=f"{name} has no expansion in moments; these have one: {able}"):
            DispersionLoss(name, pairs=Moments(1))
    with pytest.raises(UserError, match=r"Moments\(3\): the order of the expansion is 1 or 2"):
        Moments(3)
    with pytest.raises(UserError, match="control is the order of an expansion"):
        Partition(64, control=3)
    with pytest.raises(UserError, match="engine='eager' holds pairs"):
        DispersionLoss(pairs=Moments(1), engine="eager")


@pytest.mark.parametrize(
    ("name", "temperature", "warns"),
    [("dispersion", 0.19, True), ("dispersion", 0.25, False), ("uniformity", 1.0, True)],
)
def test_a_steep_pair_function_warns(recwarn, name, temperature, warns):
    DispersionLoss(name, temperature=temperature, pairs=Moments(2))
    assert bool([warning for warning in recwarn if "over 1.6" in str(warning.message)]) == warns


@pytest.mark.parametrize("pairs", [Moments(1), Moments(2), Partition(4), Partition(4, control=1)], ids=str)
def test_bad_numbers_and_degenerate_vectors(pairs):
    loss = DispersionLoss(pairs=pairs)
    for bad in (math.nan, math.inf):
        hidden = random_hidden()
        hidden[1, 3, 2] = bad
        assert loss(hidden).isnan()
        values, _ = loss.per_sequence(hidden)
        assert values[[0, 2]].isfinite().all()
    for hidden in (torch.zeros(SHAPE), torch.ones(SHAPE), -torch.ones(SHAPE), torch.eye(17)[None] * 1e4):
        values, gradient, _ = value_and_gradient(loss, hidden)
        assert values.isfinite().all()
        assert gradient.isfinite().all()
    antipodal = random_hidden(1, (1, 8, 4), mean=0.0)
    values, gradient, _ = value_and_gradient(loss, torch.cat([antipodal, -antipodal], dim=1))
    assert values.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("pairs", ["all", Moments(1), Moments(2), Partition(4), Subset(4)], ids=str)
def test_a_broken_token_that_stands_alone_is_not_hidden(pairs):
    hidden, mask = random_hidden(), torch.ones(3, 17, dtype=torch.bool)
    mask[1, 1:] = False
    hidden[1, 0, 0] = math.nan
    assert DispersionLoss(pairs=pairs)(hidden, mask=mask).isnan()
    mask[1, 0] = False
    assert DispersionLoss(pairs=pairs)(hidden, mask=mask).isfinite()


@pytest.mark.parametrize("pairs", ["all", Moments(1), Moments(2), Partition(5, control=1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(pairs, dtype):
    hidden = random_hidden(14).to(dtype)
    values, gradient, _ = value_and_gradient(DispersionLoss(pairs=pairs), hidden)
    exact, exact_gradient, _ = value_and_gradient(DispersionLoss(pairs=pairs), hidden.double())
    assert values.dtype == torch.float32
    assert gradient.dtype == dtype
    # The input is the same; sums of float32 err by 1e-6, and the gradient is rounded to the input's precision once.
    torch.testing.assert_close(values, exact.float(), rtol=1e-5, atol=1e-6)
    assert (gradient - exact_gradient).abs().max() <= torch.finfo(dtype).eps * exact_gradient.abs().max()


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("pairs", ["all", Partition(5), Subset(5)], ids=str)
def test_the_operator_is_sound(pairs, recompute):
    """Schema, fake implementation and autograd registration, by torch's own check."""
    hidden = random_hidden(15, (2, 12, 6)).requires_grad_()
    grouping = form_groups(find_sequences(hidden.shape[:2], hidden.device, None, None), pairs, 0, 0)
    shift = torch.zeros(2, dtype=torch.float64)
    call = blocked_room.Call(FORMULATIONS["dispersion"], Settings(), grouping, shift, recompute, None, False)
    torch.library.opcheck(torch.ops.decondense.sum_pairs.default, (hidden, *blocked_room._flatten(call), not recompute))


@pytest.mark.parametrize(("script", "compiled"), [("compiled_loss.py", 6), ("compiled_first.py", 2)])
def test_inside_a_compiled_function(script, compiled):
    """After a first eager call, and as the very first call of all, which takes a process that has made none."""
    path = Path(__file__).with_name(script)
    finished = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("compiled") == compiled
