"""Sequences that lie on several ranks have the value of the whole on each rank, and each rank has the gradient of its own shard."""

import copy
import dataclasses
import functools
import math
from datetime import timedelta

import conftest  # noqa: F401 - shapes are checked in the processes that this file starts, too
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from decondense import DispersionLoss, Moments, Partition, Subset, UserError, attach
from decondense.losses import moments as moments_room
from decondense.losses import portions
from decondense.losses.formulations import FORMULATIONS
from decondense.losses.pairs import Pairs
from decondense.losses.parallel import _pass_round

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo"
)
# The warning has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*an expansion is far from it there:UserWarning")

SUMS = [name for name, row in FORMULATIONS.items() if row.slope is not None]
EXPANDED = [name for name, row in FORMULATIONS.items() if row.curvature is not None and not row.features]
LENGTH = 17
# Tokens of each row on each rank: uneven, one rank with a single token; and rows of the batch, for data-parallel ranks.
LENGTHS = {2: [9, 8], 4: [3, 7, 1, 6]}
ROWS = {2: [4, 2], 4: [1, 2, 1, 2]}


def random_hidden(seed=0, shape=(3, LENGTH, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def random_mask(seed, shape=(3, LENGTH)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.3


# Documents of six tokens cross every boundary of shards but none; those that take turns lie on all ranks.
LAYOUTS = {
    "plain": {},
    "mask": {"mask": random_mask(1) & (torch.arange(LENGTH) < 11)},  # of four ranks the last has no real token
    "documents": {"documents": (torch.arange(LENGTH) // 6).expand(3, LENGTH)},
    "both": {"mask": random_mask(2), "documents": torch.stack([torch.arange(LENGTH) // size for size in (1, 4, 20)])},
    "turns": {"mask": random_mask(3), "documents": (torch.arange(LENGTH) % 3).expand(3, LENGTH)},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One call: a loss, and which tokens are given."""

    name: str = "dispersion"
    temperature: float = 1.0
    pairs: Pairs = "all"
    layout: str = "plain"
    across: str = "sequence"
    recompute: bool = False
    dtype: torch.dtype = torch.float64
    bad: tuple[int, ...] = ()

    def loss(self, **over):
        return DispersionLoss(self.name, temperature=self.temperature, pairs=self.pairs, **over)

    def __str__(self):
        default = Case()
        return (
            "-".join(str(value) for key, value in vars(self).items() if value != getattr(default, key)) or "dispersion"
        )


CASES = [
    *(Case(name, layout=layout) for name in SUMS for layout in LAYOUTS),
    *(Case(name, temperature=0.01, layout=layout) for name in SUMS for layout in ("plain", "turns")),
    *(
        Case(name, pairs=Moments(order), layout=layout)
        for name in EXPANDED
        for order in (1, 2)
        for layout in ("plain", "mask", "turns")
    ),
    *(Case(name, across="batch", layout="mask") for name in ("dispersion", "l2_repel", "covariance")),
    *(Case(name, recompute=True, layout="turns") for name in ("dispersion", "decorrelation")),
    Case(pairs=Moments(2), across="batch"),
    Case(dtype=torch.bfloat16, layout="mask"),
    Case("decorrelation", dtype=torch.bfloat16),
    Case(bad=(1, 4, 2)),
    Case("effective_rank", pairs=Moments(2), bad=(1, 16, 0)),
]
# Four processes take a row of each kind and the layouts that are hardest: a rank without a token, and documents on every rank.
KINDS = ("dispersion", "l2_repel", "hinge_cosine", "decorrelation", "uniformity", "effective_rank")
CASES_OF = {2: CASES, 4: [case for case in CASES if case.layout in ("mask", "turns") and case.name in KINDS]}
TOGETHER = [Case(), Case("l2_repel"), Case("effective_rank", pairs=Moments(2)), Case(pairs=Moments(1), layout="mask")]


def give(case, shape=None):
    """Hidden states and their arguments, whole."""
    hidden = random_hidden() if shape is None else random_hidden(7, shape)
    if case.bad:
        hidden[case.bad] = math.nan
    layout = LAYOUTS[case.layout] if shape is None else {"mask": random_mask(5, shape[:2])} if case.layout else {}
    return hidden.to(case.dtype), layout


def value_and_gradient(loss, case, hidden, layout):
    hidden = hidden.clone().requires_grad_()
    sequences = loss.find_sequences(hidden, **layout)
    values = loss.of_sequences(hidden, sequences, recompute=case.recompute)
    # Unequal weights: a gradient scaled by the wrong sequence would show.
    (values * torch.arange(1, len(values) + 1)).sum().backward()
    return values.detach(), sequences.tokens, hidden.grad


# --- what each rank does ------------------------------------------------------------------------------------------------------------


def shard(rank, ranks):
    start = sum(LENGTHS[ranks][:rank])
    return slice(start, start + LENGTHS[ranks][rank])


def work(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=30),  # a deadlock is an error, and soon
    )
    small_blocks()
    world, places = dist.group.WORLD, shard(rank, ranks)
    found = {}
    for case in CASES_OF[ranks]:
        hidden, layout = give(case)
        loss = case.loss(across=case.across, sharded_over=world)
        layout = {key: tensor[:, places] for key, tensor in layout.items()}
        found[str(case)] = value_and_gradient(loss, case, hidden[:, places], layout)
    start = sum(ROWS[ranks][:rank])
    rows = slice(start, start + ROWS[ranks][rank])
    for case in TOGETHER:
        hidden, layout = give(case, (6, 8, 7))
        layout = {key: tensor[rows] for key, tensor in layout.items()}
        found[f"together {case}"] = value_and_gradient(case.loss(across=world), case, hidden[rows], layout)
    found["twice"] = use_twice({"sharded_over": world}, places)
    found["errors"] = errors(rank, world)
    found["groups"] = other_groups(rank, ranks)
    found["remote"] = remote_shards(rank, world)
    found["attached"] = {given: attached(given, world, rank, ranks) for given in ("mean", "total")}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def small_blocks():
    """Blocks smaller than the groups, of a size that does not divide them."""
    portions.BLOCK_OF["cpu"], portions.PAIRS_AT_ONCE["cpu"], moments_room.TOKENS_AT_ONCE["cpu"] = 5, 60, 7


def use_twice(over, places=slice(None)):
    """Two layers of one step, whose backward pass goes through both; and a second step on the same module."""
    loss, weight = DispersionLoss(temperature=0.01, **over), torch.eye(7, dtype=torch.float64).requires_grad_()
    first = random_hidden()[:, places]
    values = []
    for _step in range(2):
        second = torch.tanh(first @ weight)
        value = loss(first @ weight) + 2 * loss(second)
        value.backward()
        values.append(value.detach())
    return torch.stack(values), weight.grad


def errors(rank, world):
    """What each rank says where one, or all, give what does not fit."""
    hidden, loss, said = random_hidden()[:, :4], DispersionLoss(sharded_over=world), {}
    first = rank == 0
    given = {
        "mask": {"mask": torch.ones(3, 3, dtype=torch.bool) if first else None},
        "integer": {"hidden": hidden.long() if first else hidden},
        "features": {"hidden": hidden[..., :5] if first else hidden},
        "dtype": {"hidden": hidden.float() if first else hidden},
        "rows": {"hidden": hidden[:2] if first else hidden},
        "documents": {"documents": torch.zeros(3, 4, dtype=torch.long) if first else None},
        "gradient": {"hidden": hidden.clone().requires_grad_(first)},
    }
    for name, arguments in given.items():
        try:
            loss(**{"hidden": hidden, **arguments})
        except (UserError, TypeError) as error:
            said[name] = (type(error).__name__, str(error))
    said["after"] = loss(hidden)  # nothing is left over from what failed
    return said


def other_groups(rank, ranks):
    """A dimension of a device mesh in place of a group, and groups of which a rank is in one."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("dp", "cp"))
    places = shard(rank, ranks)
    part = torch.tensor_split(random_hidden(), ranks // 2, dim=1)[mesh.get_local_rank("cp")]
    one = dist.device_mesh.init_device_mesh("cpu", (ranks,))
    refused = []
    for arguments in ({"sharded_over": mesh}, {"across": mesh["dp"], "sharded_over": mesh["cp"]}):
        with pytest.raises(UserError) as error:
            DispersionLoss(**arguments)
        refused.append(str(error.value))
    return {
        "cp": DispersionLoss(sharded_over=mesh["cp"])(part),
        "one": DispersionLoss(sharded_over=one)(random_hidden()[:, places]),
        "refused": refused,
    }


def remote_shards(rank, world):
    """How many buffers hold shards of others, and whether each shard is what its rank gave."""
    hidden = torch.full((2, 3 + rank, 4), float(rank))
    shards = DispersionLoss(sharded_over=world).find_sequences(hidden)
    seen, right = set(), True
    for source, passing in _pass_round(hidden, shards):
        right = right and passing.shape == (2, 3 + source, 4) and bool((passing == source).all())
        if source != rank:
            seen.add(passing.untyped_storage().data_ptr())
    return len(seen), right


class Plain(nn.Module):
    """Blocks that do not mix tokens, so that a shard of a row needs nothing of the others; and a loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11)

    def forward(self, input_ids, attention_mask=None, shift_labels=None, num_items_in_batch=None):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        logits = self.head(self.norm(hidden))
        total = nn.functional.cross_entropy(logits.flatten(0, 1), shift_labels.flatten(), reduction="sum")
        return {"loss": total / ((shift_labels >= 0).sum() if num_items_in_batch is None else num_items_in_batch)}


def attached(given, world=None, rank=0, ranks=1):
    """Loss and gradients of a model with a loss attached; over ranks averaged, or summed where the total of labels is given."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (2, 8), generator=generator)
    mask, labels = torch.ones_like(ids), ids.roll(-1, 1)
    if given == "total":
        mask[1, 6:], labels[1, 3:] = 0, -100
    total = (labels >= 0).sum() if given == "total" else None
    model = Plain().double().train()
    with attach(model, DispersionLoss(sharded_over=world), weight=0.5):
        parts = [tensor.chunk(ranks, dim=1)[rank] for tensor in (ids, mask, labels)]
        loss = model(parts[0], attention_mask=parts[1], shift_labels=parts[2], num_items_in_batch=total)["loss"]
        loss.backward()
    results = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    if world is not None:
        for result in results:
            dist.all_reduce(result)
            result.div_(1 if given == "total" else ranks)
    return results


# --- what must be so ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found_by(tmp_path_factory):
    """What each of so many processes found. They run once."""

    @functools.cache
    def run(count):
        folder = tmp_path_factory.mktemp(f"ranks{count}")
        torch.multiprocessing.spawn(work, (count, str(folder)), count)
        return [torch.load(folder / f"{rank}.pt") for rank in range(count)]

    return run


@pytest.fixture(params=[2, 4])
def ranks(request, found_by):
    return found_by(request.param)


@pytest.fixture
def blocks():
    before = [copy.copy(room) for room in (portions.BLOCK_OF, portions.PAIRS_AT_ONCE, moments_room.TOKENS_AT_ONCE)]
    small_blocks()
    yield
    portions.BLOCK_OF, portions.PAIRS_AT_ONCE, moments_room.TOKENS_AT_ONCE = before


def assert_same(ranks, key, expected, cut, tolerance):
    values, tokens, gradient = expected
    for rank, found in enumerate(ranks):
        assert found[key][0].isnan().equal(ranks[0][key][0].isnan())
        assert found[key][0].nan_to_num().equal(ranks[0][key][0].nan_to_num()), "the same value on every rank"
        torch.testing.assert_close(found[key][0], values, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert found[key][1].equal(tokens)
        torch.testing.assert_close(
            found[key][2],
            cut(gradient, rank),
            rtol=tolerance,
            atol=tolerance * gradient.nan_to_num().abs().max().clamp(min=1).item(),
            equal_nan=True,
        )


@needs_gloo
@pytest.mark.parametrize(
    ("ranks", "case"), [(ranks, case) for ranks in CASES_OF for case in CASES_OF[ranks]], indirect=["ranks"], ids=str
)
def test_sharded_is_unsharded(ranks, case):
    # The gradient of bfloat16 is rounded once on each side, from sums of float32 in another order.
    tolerance = 1e-10 if case.dtype == torch.float64 else 1e-2
    hidden, layout = give(case)
    expected = value_and_gradient(case.loss(across=case.across), case, hidden, layout)
    assert_same(ranks, str(case), expected, lambda whole, rank: whole[:, shard(rank, len(ranks))], tolerance)


@needs_gloo
@pytest.mark.parametrize("case", TOGETHER, ids=str)
def test_the_batches_of_all_ranks_are_one_set(ranks, case):
    hidden, layout = give(case, (6, 8, 7))
    expected = value_and_gradient(case.loss(across="batch"), case, hidden, layout)
    rows = ROWS[len(ranks)]
    assert_same(ranks, f"together {case}", expected, lambda whole, rank: whole.split(rows)[rank], 1e-10)


@needs_gloo
def test_gradients_of_parameters_add_up_when_used_twice(ranks):
    values, gradient = use_twice({})
    for found in ranks:
        torch.testing.assert_close(found["twice"][0], values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sum(found["twice"][1] for found in ranks), gradient, rtol=1e-10, atol=1e-9)


@needs_gloo
def test_what_is_wrong_on_one_rank_is_said_on_all(ranks):
    refused = "rank 0 of the group refused its input, and its error says why: no rank can go on"
    own = {"mask": "mask: expected shape", "integer": "hidden: expected a floating-point"}
    for rank, found in enumerate(ranks):
        said = found["errors"]
        for name, message in own.items():
            if rank == 0:
                assert said[name][1].startswith(message)
            else:
                assert said[name] == ("UserError", refused)
        count = len(ranks) - 1
        for name, message in {
            "features": f"features must be the same on all ranks of the group, got 5{', 7' * count} in their order",
            "dtype": f"the dtype must be the same on all ranks of the group, got torch.float32{', torch.float64' * count}",
            "rows": f"the batch's rows must be the same on all ranks of the group, got 2{', 3' * count}",
            "documents": f"whether there are documents (0 or 1) must be the same on all ranks of the group, got 1{', 0' * count}",
            "gradient": f"whether gradients are wanted (0 or 1) must be the same on all ranks of the group, got 1{', 0' * count}",
        }.items():
            assert said[name][0] == "UserError"
            assert said[name][1].startswith(f"hidden: {message}")
        torch.testing.assert_close(said["after"], DispersionLoss()(random_hidden()[:, :4].repeat(1, len(ranks), 1)))


@needs_gloo
def test_a_dimension_of_a_mesh_is_a_group(ranks):
    expected = DispersionLoss()(random_hidden())
    for found in ranks:
        torch.testing.assert_close(found["groups"]["cp"], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found["groups"]["one"], expected, rtol=1e-10, atol=1e-10)
        several, both = found["groups"]["refused"]
        assert several == "sharded_over: the device mesh has 2 dimensions; give one of them, as mesh['cp']"
        assert both.endswith("give across the group of all ranks whose tokens are one set, and leave sharded_over out")


@needs_gloo
def test_two_buffers_hold_the_shards_of_others(ranks):
    for found in ranks:
        buffers, right = found["remote"]
        assert right
        assert buffers == min(2, len(ranks) - 1)


@needs_gloo
@pytest.mark.parametrize("given", ["mean", "total"])
def test_attached_over_ranks_trains_as_on_one(ranks, given):
    """Averaged over ranks where cross entropy is a mean over a rank's labels; summed where it is divided by the labels of all."""
    expected = attached(given)
    for found in ranks:
        for one, other in zip(found["attached"][given], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    "pairs", ["all", Moments(1), Partition(4, seed=3), Partition(4, control=1), Subset(6)], ids=str
)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_across_the_batch_is_one_long_row(pairs, layout):
    """Documents part nothing there: all tokens are one set."""
    hidden, mask = random_hidden(), layout.get("mask")
    loss = DispersionLoss(pairs=pairs, across="batch")
    found = value_and_gradient(loss, Case(), hidden, layout)
    row = {} if mask is None else {"mask": mask.reshape(1, -1)}
    expected = value_and_gradient(DispersionLoss(pairs=pairs), Case(), hidden.reshape(1, -1, 7), row)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2].view_as(hidden))


@pytest.mark.parametrize("name", FORMULATIONS)
def test_every_row_goes_across_the_batch(name):
    hidden = random_hidden()
    found, expected = DispersionLoss(name, across="batch")(hidden), DispersionLoss(name)(hidden.reshape(1, -1, 7))
    assert torch.equal(found, expected)


def test_a_batch_of_padding_alone_has_no_loss():
    hidden = random_hidden().requires_grad_()
    nothing = {"mask": torch.zeros(3, LENGTH, dtype=torch.bool), "documents": LAYOUTS["documents"]["documents"]}
    for pairs in ("all", Moments(1), Moments(2)):
        loss = DispersionLoss(pairs=pairs)(hidden, **nothing)
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert loss == 0
        assert not gradient.any()


@pytest.mark.parametrize("argument", ["across", "sharded_over"])
@pytest.mark.parametrize("given", ["cp", 3, dist.GroupMember.NON_GROUP_MEMBER], ids=["name", "number", "no member"])
def test_what_is_no_group_is_refused(argument, given):
    with pytest.raises(
        UserError, match=rf"{argument}=.*: expected .*a process group that this rank is in, or one dimension"
    ):
        DispersionLoss(**{argument: given})


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@needs_gloo
@pytest.mark.parametrize("kind", [Partition, Subset])
def test_each_rank_draws_its_own_pairs_unless_told_otherwise(alone, monkeypatch, kind):
    hidden = random_hidden(shape=(1, 40, 7))

    def on_rank(rank, **options):
        monkeypatch.setattr(dist, "get_rank", lambda *_: rank)
        return DispersionLoss(pairs=kind(8, **options))(hidden, step=3).item()

    assert on_rank(0) != on_rank(1)
    assert on_rank(1) == on_rank(1)
    assert on_rank(0, same_on_ranks=True) == on_rank(1, same_on_ranks=True)
    # The first rank draws what a single process draws: a seed means the same with and without a launcher.
    assert on_rank(0) == on_rank(0, same_on_ranks=True)


@needs_gloo
def test_ranks_of_a_tensor_parallel_model_must_draw_the_same(alone):
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    model = nn.Sequential(nn.ModuleList([nn.Linear(4, 4)]))
    model[0][0].weight = nn.Parameter(distribute_tensor(model[0][0].weight.detach(), mesh))
    with pytest.raises(UserError, match=r"Partition\(\.\.\., same_on_ranks=True\)"):
        attach(model, DispersionLoss(pairs=Partition(8)))
    attach(model, DispersionLoss(pairs=Partition(8, same_on_ranks=True))).detach()


@needs_gloo
def test_what_cannot_be_sharded_says_what_can(alone):
    for arguments, message in (
        (
            {"pairs": Partition(64)},
            r"pairs=Partition.*: random tokens .*; use Moments\(order\), one exchange of sums, or 'all'",
        ),
        (
            {"pairs": Subset(64)},
            r"pairs=Subset.*: random tokens .*; use Moments\(order\), one exchange of sums, or 'all'",
        ),
        ({"formulation": "koleo"}, "koleo is no sum over pairs with a known slope"),
        ({"engine": "eager"}, "engine='eager' sees the tokens of one rank: use 'auto'"),
        (
            {"formulation": "covariance", "pairs": Moments(2)},
            "covariance pairs features; over several ranks 'all' costs no more",
        ),
        (
            {"formulation": own_row()},
            "own: its transform unit_tokens reads tokens of the sequence that lie on other ranks; one that is tokenwise",
        ),
    ):
        with pytest.raises(UserError, match=message):
            DispersionLoss(sharded_over=alone, **arguments)
        with pytest.raises(UserError, match=message):
            DispersionLoss(across=alone, **arguments)
    # Across the batch of one rank nothing is sharded.
    DispersionLoss("koleo", across="batch")


@needs_gloo
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", SUMS)
def test_gradcheck_over_a_group_of_one(alone, name, recompute):
    # Beyond the clamp the slope is kept on purpose and is no derivative: these cosines lie inside.
    hidden = (random_hidden(11, (2, 7, 8)) - 0.5).requires_grad_()
    loss = DispersionLoss(name, clamp=0.05, sharded_over=alone)
    sequences = loss.find_sequences(hidden)
    assert torch.autograd.gradcheck(lambda hidden: loss.of_sequences(hidden, sequences, recompute=recompute), (hidden,))


def own_row():
    row = FORMULATIONS["dispersion"]
    return dataclasses.replace(row, name="own", transform=dataclasses.replace(row.transform, tokenwise=False))
