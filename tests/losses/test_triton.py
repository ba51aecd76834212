"""The Triton engine gives what the eager definition gives, in triton's interpreter where there is no GPU; and its kernels compile for GPUs.

Run as a program it compiles the kernels, as they would be launched, for GPUs that need not be there, and prints what each takes of a core.
"""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from decondense import DispersionLoss, Moments, Partition, Subset, UserError
from decondense.losses import pairs as pairs_room
from decondense.losses import tiles
from decondense.losses import triton as engine
from decondense.losses.blocked import Call
from decondense.losses.formulations import FORMULATIONS
from decondense.losses.row import Settings
from decondense.sums import find_sequences

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="triton is not installed")
with pytest.MonkeyPatch.context() as patch:
    # Read when a kernel is defined. Only ours are: triton itself is there by now, and this file is collected before any test runs.
    if DEVICE == "cpu" and __name__ != "__main__":
        patch.setenv("TRITON_INTERPRET", "1")
    from decondense.losses import kernels

# The warning is tested where it is given.
pytestmark = pytest.mark.filterwarnings("ignore:.*an expansion is far from it there:UserWarning")
SUMS = [name for name, row in FORMULATIONS.items() if row.slope is not None]
EXPANDED = [name for name in SUMS if FORMULATIONS[name].curvature is not None and not FORMULATIONS[name].features]
HALVES = [torch.float16, torch.bfloat16]
SHAPE = (2, 19, 9)
LAYOUTS = {
    "plain": {},
    "mask": {"mask": torch.rand(2, 19, generator=torch.Generator().manual_seed(1)) > 0.3},
    "documents": {"documents": (torch.arange(19) // 7).expand(2, 19)},
    "both": {
        "mask": torch.rand(2, 19, generator=torch.Generator().manual_seed(2)) > 0.3,
        "documents": (torch.arange(19) % 3).expand(2, 19),
    },
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
forms = pytest.mark.parametrize("small_tiles", ["fused", "strips"], indirect=True)
names = pytest.mark.parametrize("name", SUMS)


@pytest.fixture(autouse=True)
def small_tiles(request, monkeypatch):
    """The least tiles that there are, so that even small groups take several, of a size that does not divide them; on a GPU the real ones serve."""
    form = getattr(request, "param", "fused")
    monkeypatch.setattr(tiles, "FUSED_WIDTH", dict.fromkeys(tiles.FUSED_WIDTH, 1 << 20 if form == "fused" else 0))
    if DEVICE == "cpu":
        monkeypatch.setattr(engine, "LEAST_STRIP", 0)
        monkeypatch.setattr(engine, "TOKEN_TILE", 128)
        for table in ("WEIGH_TILES", "GATHER_TILES"):
            monkeypatch.setattr(tiles, table, dict.fromkeys(getattr(tiles, table), (16, 16, 16)))
        monkeypatch.setattr(tiles, "FUSED_TILES", dict.fromkeys(tiles.FUSED_TILES, (16, 16, 16, 16)))


def random_hidden(seed=0, shape=SHAPE, mean=0.3, spread=0.5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(shape, generator=generator) + mean).to(dtype)


def value_and_gradient(loss, hidden, **arguments):
    hidden = hidden.clone().requires_grad_()
    values, _ = loss.to(hidden.device).per_sequence(
        hidden, **{name: each.to(hidden.device) for name, each in arguments.items()}
    )
    # Unequal weights: a gradient scaled by the wrong sequence would show. Large ones: half precision would lose the small gradients of l2 rows.
    (values * torch.arange(1, len(values) + 1, device=hidden.device) * 64).sum().backward()
    return values.detach().cpu(), hidden.grad.cpu()


def both_engines(name, hidden, layout=None, exact="eager", **settings):
    """What the kernels give, and what another engine gives in float64, of the same input."""
    layout = layout or {}
    found = value_and_gradient(DispersionLoss(name, engine="triton", **settings), hidden.to(DEVICE), **layout)
    expected = value_and_gradient(DispersionLoss(name, engine=exact, **settings), hidden.double(), **layout)
    return found, expected


def assert_same(found, expected, tolerance=1e-5, of_gradient=None):
    # float32 sums of some hundred terms err by 1e-6 of the largest. What stands for the logarithm of nothing is the smallest number of the dtype.
    values = expected[0].clamp(min=math.log(torch.finfo(torch.float32).tiny))
    torch.testing.assert_close(found[0].double(), values, rtol=tolerance, atol=tolerance)
    largest = expected[1].abs().max()
    # Correlations of two features, one of them constant, have no gradient but rounding.
    assert (found[1] - expected[1]).abs().max() <= (of_gradient or tolerance) * max(largest, 1.0)


@forms
@layouts
@names
def test_it_is_eager(name, layout, small_tiles):
    assert_same(*both_engines(name, random_hidden(), layout))


@layouts
@pytest.mark.parametrize("pairs", [Partition(5, seed=3), Subset(6)], ids=str)
@pytest.mark.parametrize("name", ["dispersion", "infonce_l2", "uniformity", "effective_rank", "decorrelation"])
def test_groups_of_tokens_are_gathered_and_put_back(name, pairs, layout):
    if FORMULATIONS[name].features and isinstance(pairs, Partition):
        pytest.skip("features are not partitioned")
    assert_same(*both_engines(name, random_hidden(1), layout, pairs=pairs))


@forms
@pytest.mark.parametrize("control", [1, 2])
@pytest.mark.parametrize("name", EXPANDED)
def test_an_expansion_is_taken_off(name, control, small_tiles):
    # A cone, so that what the expansion leaves over is small and no sum becomes negative.
    hidden = random_hidden(2, mean=1.0, spread=0.3)
    assert_same(*both_engines(name, hidden, LAYOUTS["mask"], "blocked", pairs=Partition(7, control=control)))


@forms
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@names
def test_half_precision_is_summed_in_float32(name, dtype, small_tiles):
    hidden = random_hidden(3, dtype=dtype)
    assert_same(*both_engines(name, hidden), of_gradient=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_inner_products_of_half_precision_are_exact(dtype):
    """One feature holds nearly all of each vector: rounding unit vectors to half precision would move cosines, and the loss, by 1e-3."""
    hidden = random_hidden(4, (1, 19, 9), spread=1.0, mean=0.0)
    hidden[:, :, 0] = 40.0 + random_hidden(5, (1, 19))
    (value, _), (exact, _) = both_engines("uniformity", hidden.to(dtype))
    assert abs(value - exact) < 2e-6  # distances of 0.1 are differences of squares near 1, in float32


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", ["dispersion", "infonce_cosine", "uniformity"])
@pytest.mark.parametrize("temperature", [0.1, 0.02])
def test_low_temperatures_lose_no_gradient(name, dtype, temperature):
    # Weights of exp(-20) and less are nothing in float16. float32 logits of 1 / temperature err by 6e-8 of themselves, and so do their exponentials.
    found, expected = both_engines(name, random_hidden(6, dtype=dtype), temperature=temperature)
    rounding = 1e-6 / temperature if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_same(found, expected, 1e-6 / temperature, rounding)


@forms
@pytest.mark.parametrize("length", [1, 2, 16, 33])
@pytest.mark.parametrize("features", [1, 2, 40])
def test_any_size(length, features, small_tiles):
    hidden = random_hidden(7, (2, length, features), mean=0.0)
    assert_same(*both_engines("dispersion", hidden))
    assert_same(*both_engines("l2_repel", hidden))
    if length != 2:  # over two tokens all correlations are 1 or -1, and the gradient is nothing but rounding
        assert_same(*both_engines("decorrelation", hidden), 2e-5)


DEGENERATE = {
    "outlier": random_hidden(8) * torch.where(torch.arange(19) == 3, 1e4, 1.0)[:, None],
    "antipodal": torch.cat([random_hidden(9, (1, 8, 4), mean=0.0), -random_hidden(9, (1, 8, 4), mean=0.0)], dim=1),
    "some zeros": random_hidden(10) * (torch.arange(19) % 2)[:, None],
    "zeros": torch.zeros(SHAPE),
    "parallel": torch.ones(SHAPE),
}


@pytest.mark.parametrize("hidden", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", ["dispersion", "uniformity", "effective_rank"])
def test_degenerate_vectors(name, dtype, hidden):
    # Twice the rounding of a half: once the weights are rounded, once the gradient.
    rounding = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert_same(*both_engines(name, hidden.to(dtype)), of_gradient=rounding)


def test_tiny_vectors_are_normalised_without_epsilon():
    found, expected = both_engines("dispersion", random_hidden(11) * 1e-12, epsilon=0.0)
    # The gradient is as large as the vectors are small.
    assert_same((found[0], found[1] * 1e-12), (expected[0], expected[1] * 1e-12))


@pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning"
)  # numpy, of which the interpreter is made
@forms
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("pairs", ["all", Partition(5)], ids=str)
def test_bad_numbers_show_where_they_are_real_and_nowhere_else(dtype, pairs, small_tiles):
    loss = DispersionLoss(pairs=pairs, engine="triton")
    for bad in (math.nan, math.inf):
        hidden = random_hidden(12, dtype=dtype).to(DEVICE)
        clean, clean_gradient = value_and_gradient(loss, hidden)
        hidden[1, 3, 2] = bad
        values, gradient = value_and_gradient(loss, hidden)
        assert values[1].isnan()
        assert torch.equal(values[0], clean[0])
        assert torch.equal(gradient[0], clean_gradient[0])
        mask = torch.ones(SHAPE[:2], dtype=torch.bool)
        mask[1, 3] = False
        values, gradient = value_and_gradient(loss, hidden, mask=mask)
        hidden[1, 3] = 0.0
        expected, expected_gradient = value_and_gradient(loss, hidden, mask=mask)
        assert torch.equal(values, expected)
        assert torch.equal(gradient, expected_gradient)


def test_strides_of_the_input_do_not_matter():
    hidden = random_hidden(13).to(DEVICE)
    loss = DispersionLoss(engine="triton")
    expected = value_and_gradient(loss, hidden)
    wide = torch.zeros(2, 19, 18, device=DEVICE)
    wide[..., ::2] = hidden
    for same in (hidden.mT.contiguous().mT, wide[..., ::2], hidden.transpose(0, 1).contiguous().transpose(0, 1)):
        found = value_and_gradient(loss, same)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@forms
@names
def test_the_value_alone_comes_from_half_the_pairs(name, small_tiles):
    hidden = random_hidden(14).to(DEVICE)
    loss = DispersionLoss(name, engine="triton").to(DEVICE)
    with torch.no_grad():
        alone, _ = loss.per_sequence(hidden)
    together, _ = loss.per_sequence(hidden.requires_grad_())
    torch.testing.assert_close(alone, together.detach(), rtol=1e-5, atol=1e-6)  # other sums, in float32


@names
def test_recomputing_gives_the_same_gradient_and_the_same_bits_each_time(name):
    hidden = random_hidden(15).to(DEVICE).requires_grad_()
    loss = DispersionLoss(name, engine="triton").to(DEVICE)
    sequences = find_sequences(hidden.shape[:2], hidden.device, None, None)
    gradients = [
        torch.autograd.grad(loss.of_sequences(hidden, sequences, recompute=recompute).sum(), hidden)[0]
        for recompute in (False, True, True)
    ]
    # The logarithm's slope comes of the sum that the forward pass took, in float32: over half the pairs, or over all.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    assert torch.equal(gradients[1], gradients[2])


class LargestTensor(TorchDispatchMode):
    """Remembers the most bytes that any tensor made meanwhile has."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.nbytes)
        return result


@pytest.mark.skipif(DEVICE == "cuda", reason="a strip may have LEAST_STRIP weights there")
@forms
def test_no_tensor_outgrows_the_input(small_tiles):
    hidden = random_hidden(16, (1, 80, 24))
    row = FORMULATIONS["dispersion"]
    sequences = find_sequences(hidden.shape[:2], hidden.device, None, None)
    grouping = pairs_room.form_groups(sequences, "all", 0, 0)
    call = Call(row, Settings(), grouping, torch.zeros(1), False, None, row.diagonal, "triton")
    with LargestTensor() as largest:
        engine.go_over_pairs(hidden, call, True)
    assert largest.most <= hidden.nbytes


def test_the_angle_is_exact_to_the_rounding_of_float32():
    tl = kernels.tl
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1" if DEVICE == "cpu" else "0")

        @triton.jit
        def share_of_angle_of_all(cosines, angles, SIZE: tl.constexpr):
            place = tl.arange(0, SIZE)
            tl.store(angles + place, kernels.share_of_angle(tl.load(cosines + place)))

    cosines = torch.cat([torch.linspace(-1, 1, 8191), torch.tensor([0.0])]).to(DEVICE)
    angles = torch.empty_like(cosines)
    share_of_angle_of_all[(1,)](cosines, angles, SIZE=8192)
    error = (angles.double() - torch.acos(cosines.double()) / math.pi).abs()
    by_torch = (torch.acos(cosines) / math.pi - torch.acos(cosines.double()) / math.pi).abs()
    # Half the distance of float32's neighbours below 1 is 3e-8: the polynomial's own 7e-9 vanish in it.
    assert error.max() < 1e-7
    assert error.max() < 1.1 * by_torch.max()


def test_what_it_cannot_do_it_says(monkeypatch):
    able = ", ".join(SUMS)
    with pytest.raises(
        UserError, match=f"^engine='triton': koleo has no kernel; these have one: {able}; use engine='auto'$"
    ):
        DispersionLoss("koleo", engine="triton")
    with pytest.raises(UserError, match="engine='triton': it adds in float32, and hidden is float64"):
        DispersionLoss(engine="triton")(random_hidden().double())
    monkeypatch.setattr(engine, "interpreted", lambda: False)
    with pytest.raises(
        UserError, match=r"it needs a GPU, and hidden is on cpu \(TRITON_INTERPRET=1 runs it there, slowly\)"
    ):
        DispersionLoss(engine="triton")(random_hidden())
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="engine='triton': triton is not installed"):
        DispersionLoss(engine="triton")


def test_auto_takes_it_where_it_pays():
    row = FORMULATIONS["dispersion"]
    assert engine.choose("auto", row, random_hidden()) == "blocked"
    assert engine.choose("blocked", row, random_hidden()) == "blocked"
    assert engine.choose("triton", row, random_hidden()) == "triton"
    if DEVICE == "cuda":
        assert engine.choose("auto", row, random_hidden().cuda()) == "blocked"
        assert engine.choose("auto", row, random_hidden(dtype=torch.bfloat16).cuda()) == "triton"


@pytest.mark.parametrize("pairs", [Moments(1)], ids=str)
def test_moments_take_no_pairs(pairs):
    hidden = random_hidden(17).to(DEVICE)
    assert torch.equal(DispersionLoss(pairs=pairs, engine="triton")(hidden), DispersionLoss(pairs=pairs)(hidden))


def test_the_kernels_compile_for_gpus(tmp_path):
    """What the interpreter runs the compiler need not accept: each kernel, in its real tiles, for a Hopper and an Ampere."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, __file__, "90", "80"], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert {line.split()[1] for line in run.stdout.splitlines()} == {
        "normalise",
        "weigh",
        "gather",
        "weigh_and_gather",
        "pull_through_norm",
    }


class Compiler:
    """Stands for the module of kernels: compiles in place of launching."""

    def __init__(self, architecture, shared):
        self.architecture, self.shared = architecture, shared

    def __getattr__(self, name):
        return _Launch(getattr(kernels, name), self)


class _Launch:
    def __init__(self, kernel, compiler):
        self.kernel, self.compiler = kernel, compiler

    def __getitem__(self, grid):
        return self

    def __call__(self, **arguments):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature, constants, divisible = {}, {}, {}
        short = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "u8", "int64": "i64"}
        for place, name in enumerate(self.kernel.arg_names):
            value = arguments.pop(name)
            if isinstance(value, torch.Tensor):
                signature[name] = "*" + short[str(value.dtype).removeprefix("torch.")]
                divisible[(place,)] = [["tt.divisibility", 16]]
            elif name.isupper():
                signature[name] = "constexpr"
                constants[(place,)] = value
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
                if signature[name] == "i32" and value % 16 == 0:
                    divisible[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, divisible)
        target = GPUTarget("cuda", self.compiler.architecture, 32)
        binary = triton.compile(source, target=target, options=arguments)
        assert binary.metadata.shared <= self.compiler.shared, f"{self.kernel.__name__}: {binary.metadata.shared} bytes"
        print(
            f"sm_{self.compiler.architecture} {self.kernel.__name__} {arguments} {binary.metadata.shared} bytes shared"
        )


def compile_as_launched(architecture):
    """Compile what dispersion of bfloat16 launches at widths 1024 and 256: no kernel runs, so the tensors may be small and hold anything."""
    shared = {80: 163, 90: 227}[architecture] * 1024
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_kernels", lambda: Compiler(architecture, shared))
        patch.setattr(engine, "interpreted", lambda: False)
        patch.setattr(tiles, "_limits", lambda device: (shared, architecture >= 90))
        for width in (1024, 256):
            hidden = torch.zeros(1, 256, width, dtype=torch.bfloat16)
            row = FORMULATIONS["dispersion"]
            sequences = find_sequences(hidden.shape[:2], hidden.device, None, None)
            grouping = pairs_room.form_groups(sequences, "all", 0, 0)
            call = Call(row, Settings(), grouping, torch.zeros(1), False, None, row.diagonal, "triton")
            engine.go_over_pairs(hidden, call, True)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        compile_as_launched(int(each))
