"""What is watched is what transformers returns: in decoders, encoders, both stacks of two, language towers, by name, and in wrappers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import DECODERS, ENCODER_DECODERS, MORE_ENCODERS, MULTIMODAL, build, tokens
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.layers import body, count_layers, find_blocks, find_stacks, unwrap, watch

# transformers leaves out what these models' first block reads and gives the last block's output twice, before and after the norm: entry i of
# theirs is what block i + 1 gave. Ours are numbered as everyone's.
WITHOUT_EMBEDDINGS = {"mamba", "mamba2", "falcon-mamba", "rwkv"}
# Before transformers 5 their last entry was the one before the last norm.
BEFORE_NORM = {"modernbert", "biogpt", "roberta-prelayernorm"}
if transformers.__version__ < "5":
    WITHOUT_EMBEDDINGS.add("xlstm")
else:
    BEFORE_NORM.clear()


def make(name: str, head: bool = True) -> nn.Module:
    try:
        return build(name, head)
    except AttributeError as error:
        if not str(error).startswith("module transformers has no attribute"):
            raise
        pytest.skip(f"transformers {transformers.__version__} has no {name}: {error}")


def with_and_without_head(*names: str) -> list[tuple[str, bool]]:
    # Without their heads one is an encoder-decoder, and the other is not there.
    return [
        (name, head) for name in names for head in (True, False) if head or name not in ("bart-decoder", "bert-to-bert")
    ]


def see(model: nn.Module, run: nn.Module, inputs: dict[str, Any], **options: object) -> list[tuple[int, Tensor]]:
    """What is shown while `run` is called once."""
    seen: list[tuple[int, Tensor]] = []
    with torch.no_grad(), watch(model, lambda index, hidden: seen.append((index, hidden)), **options) as watched:
        run(**inputs)
        watched.check()
    return seen


def assert_entries(seen: list[tuple[int, Tensor]], expected: tuple[Tensor, ...] | list[Tensor]) -> None:
    assert [index for index, _ in seen] == list(range(len(expected)))
    assert all(torch.equal(hidden, other) for (_, hidden), other in zip(seen, expected, strict=True))


def padded() -> dict[str, Any]:
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(("name", "head"), with_and_without_head(*DECODERS, *MORE_ENCODERS))
def test_entries_are_the_hidden_states(name: str, head: bool) -> None:
    model = make(name, head)
    core = body(model)
    inputs = padded()
    if "use_cache" in inspect.signature(core.forward).parameters:
        inputs["use_cache"] = False  # xLSTM runs another computation with it
    with torch.no_grad():
        output = core(**inputs, output_hidden_states=True)
        expected = list(output.hidden_states)
        if name in WITHOUT_EMBEDDINGS:
            embeddings = model.get_input_embeddings()(tokens())
            expected = [embeddings, *expected[:-2], expected[-1]]
    if name in BEFORE_NORM:
        expected[-1] = output.last_hidden_state
    assert count_layers(model) == len(expected)
    assert torch.equal(expected[-1], output[0])
    assert_entries(see(model, core, inputs), expected)
    assert find_stacks(model) == ()


def test_a_decoder_without_its_encoder_counts_its_own_blocks() -> None:
    # BART's `num_hidden_layers` is the number of its encoder's.
    assert count_layers(build("bart-decoder")) == 3


@pytest.mark.parametrize(("name", "head"), with_and_without_head(*ENCODER_DECODERS))
def test_each_stack_of_an_encoder_decoder(name: str, head: bool) -> None:
    model = make(name, head)
    assert find_stacks(model) == ("encoder", "decoder")
    short = tokens(length=5, seed=1)
    inputs = {**padded(), "decoder_input_ids": short, "decoder_attention_mask": torch.ones_like(short)}
    both, encoder = body(model, stack="decoder"), body(model, stack="encoder")
    with torch.no_grad():
        output = both(**inputs, output_hidden_states=True)
    for stack, count in (("encoder", 4), ("decoder", 3)):
        expected = output[f"{stack}_hidden_states"]
        assert count_layers(model, stack) == count == len(expected)
        assert len(find_blocks(model, stack)) == count - 1
        for run in (model, both):
            assert_entries(see(model, run, inputs, stack=stack), expected)
    assert_entries(see(model, encoder, padded(), stack="encoder"), output.encoder_hidden_states)


def test_generation_runs_the_decoder_without_the_encoder() -> None:
    model = build("t5")
    seen: dict[str, list[int]] = {"encoder": [], "decoder": []}
    with contextlib.ExitStack() as stack:
        for name, indices in seen.items():
            stack.enter_context(watch(model, lambda index, hidden, to=indices: to.append(index), stack=name))
        model.generate(**padded(), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert seen == {"encoder": [0, 1, 2, 3], "decoder": [0, 1, 2] * 3}


def test_without_a_stack_the_largest_is_watched() -> None:
    model = build("t5")
    assert body(model) is model.decoder
    assert find_blocks(model) == list(model.decoder.block)
    smaller = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=4, num_decoder_layers=1)
    )
    assert body(smaller) is smaller.encoder


@pytest.mark.parametrize(
    ("name", "stack", "message"),
    [
        ("t5", "middle", "stack 'middle' is not known: .*known are encoder, decoder"),
        ("t5", "decode", "did you mean 'decoder'"),
        ("mamba", "encoder", "stack='encoder': MambaForCausalLM has no encoder and decoder that read tokens; leave"),
        ("bart-decoder", "decoder", "stack='decoder': BartForCausalLM has no encoder and decoder"),
    ],
)
def test_a_stack_that_is_not_there_is_refused(name: str, stack: str, message: str) -> None:
    model = build(name)
    for call in (body, find_blocks, count_layers):
        with pytest.raises(UserError, match=message):
            call(model, stack=stack)
    with pytest.raises(UserError, match=message):
        watch(model, lambda index, hidden: None, stack=stack)


def test_an_encoder_of_pictures_is_no_stack() -> None:
    vision = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 128}
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**vision, image_size=16, patch_size=8),
        transformers.BertConfig(vocab_size=50, **{**vision, "hidden_size": 16, "intermediate_size": 16}),
    )
    model = transformers.VisionEncoderDecoderModel(config).eval()
    assert find_stacks(model) == ()
    assert body(model) is model.decoder.bert


@pytest.mark.parametrize("name", MULTIMODAL)
def test_of_a_multimodal_model_the_language_tower(name: str) -> None:
    model = make(name)
    core = body(model)
    tower = sum(weight.numel() for weight in core.parameters())
    assert tower < sum(weight.numel() for weight in model.parameters()) / 2  # size would find what reads the pictures
    with torch.no_grad():
        output = core(**padded(), output_hidden_states=True)
    assert core.get_input_embeddings() is model.get_input_embeddings()
    assert count_layers(model) == 4
    assert_entries(see(model, core, padded()), output.hidden_states)
    assert body(core) is core


def test_the_tower_is_run_by_the_model_around_it() -> None:
    model = build("llava")
    with torch.no_grad():
        expected = model(**padded(), output_hidden_states=True).hidden_states
    assert_entries(see(model, model, padded()), expected)


def test_the_stacks_of_a_multimodal_encoder_decoder() -> None:
    vision = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    text = {"model_type": "t5", "vocab_size": 50, "d_model": 32, "d_kv": 16, "d_ff": 40, "num_layers": 3}
    config = transformers.Blip2Config(
        vision_config=vision,
        qformer_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40},
        text_config=text,
    )
    model = transformers.Blip2ForConditionalGeneration(config).eval()
    assert find_stacks(model) == ("encoder", "decoder")
    assert body(model, stack="encoder") is model.language_model.encoder
    assert body(model, stack="decoder") is model.language_model
    assert body(model) is model.language_model.decoder


def test_blocks_that_are_spread_over_lists_are_refused() -> None:
    model = transformers.XLMModel(transformers.XLMConfig(vocab_size=50, emb_dim=32, n_layers=2, n_heads=2)).eval()
    with pytest.raises(UserError, match="XLMModel: its blocks are spread over several lists"):
        count_layers(model)
    names = ["layer_norm_emb", "layer_norm2.*"]
    with torch.no_grad():
        expected = model(tokens(), output_hidden_states=True).hidden_states
    assert_entries(see(model, model, {"input_ids": tokens()}, names=names), expected)


class Mixer(nn.Module):
    """A block whose output is a dictionary, a list, a tuple or an object, as its number says."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.number = number

    def forward(self, hidden: Tensor) -> object:
        hidden = hidden + self.linear(hidden)
        kinds = (
            hidden,
            (hidden, None),
            [None, hidden],
            {"scores": None, "hidden": hidden},
            {"first": hidden.sum(), "last_hidden_state": hidden},
            transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden),
        )
        return kinds[self.number % len(kinds)]


def first(output: object) -> Tensor:
    if isinstance(output, dict):
        output = output.get("last_hidden_state", output.get("hidden"))
    return next(part for part in output if part is not None) if isinstance(output, tuple | list) else output


class Odd(nn.Module):
    """A model outside transformers, without a list of blocks."""

    def __init__(self, blocks: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.blocks = nn.Module()
        for number in range(blocks):
            setattr(self.blocks, str(number), Mixer(number))
        self.norm = nn.LayerNorm(8)
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.spare = nn.Linear(8, 8)
        self.head = nn.Linear(8, 50)

    def forward(self, ids: Tensor, twice: bool = False) -> Tensor:
        hidden = self.embed(ids)
        for block in self.blocks.children():
            hidden = first(block(hidden))
        hidden = self.norm(hidden)
        self.pool(hidden)
        return self.head(self.norm(hidden) if twice else hidden)


def by_hand(model: Odd) -> dict[str, Tensor]:
    found = {}
    hidden = model.embed(tokens())
    for name, block in model.blocks.named_children():
        hidden = found[f"blocks.{name}"] = first(block(hidden))
    return {**found, "norm": model.norm(hidden)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["blocks.0", "blocks.1"], ["blocks.0", "blocks.1"]),
        (["norm", "blocks.3"], ["norm", "blocks.3"]),
        ("blocks.*", [f"blocks.{number}" for number in range(12)]),  # in natural order, and no child of a child
        (["blocks.1*"], ["blocks.1", "blocks.10", "blocks.11"]),
        (["*.2", "n*m"], ["blocks.2", "norm"]),
    ],
)
def test_named_layers_of_any_model(names: str | list[str], expected: list[str]) -> None:
    torch.manual_seed(0)
    model = Odd()
    with pytest.raises(UserError, match="Odd: found no list of blocks in it"):
        count_layers(model)
    assert count_layers(model, names=names) == len(expected)
    assert body(model, names=names) is model
    with torch.no_grad():
        values = by_hand(model)
    # What runs first is shown first; the number is the place among the names.
    seen = dict(see(model, model, {"ids": tokens()}, names=names))
    assert_entries(sorted(seen.items()), [values[name] for name in expected])


def test_of_named_layers_only_the_wanted_are_shown_and_nothing_stays() -> None:
    model = Odd()
    seen: list[int] = []
    with watch(model, lambda index, hidden: seen.append(index), layers=[1, 3], names="blocks.*"), torch.no_grad():
        model(tokens())
        model.blocks.get_submodule("1")(torch.ones(1, 2, 8))  # outside a forward pass of the model
        model(tokens())
    assert seen == [1, 3, 1, 3]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_named_blocks_of_a_transformers_model() -> None:
    model = build("gemma2")
    with torch.no_grad():
        expected = model(tokens(), output_hidden_states=True).hidden_states
    seen = see(model, model, {"input_ids": tokens()}, names=["model.layers.0", "model.layers.1", "model.norm"])
    assert_entries(seen, expected[1:])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blocks.12"], r"names: Odd has no module 'blocks.12'; the nearest are blocks\.\d+, blocks\.\d+, blocks\.\d+"),
        (["nrm"], r"names: Odd has no module 'nrm'; the nearest are norm, "),
        (["layers.*"], r"names: Odd has no module 'layers.\*'; the nearest are "),
        (["blocks.0", "blocks.*"], "names: module 'blocks.0' is given twice"),
        ([], "names is empty: give dotted names of modules"),
        ([""], "names: Odd has no module ''"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(names: list[str], message: str) -> None:
    model = Odd()
    for call in (body, count_layers):
        with pytest.raises(UserError, match=message):
            call(model, names=names)
    with pytest.raises(UserError, match=message):
        watch(model, lambda index, hidden: None, names=names)


def test_a_stack_and_names_are_refused_together() -> None:
    with pytest.raises(UserError, match="stack='encoder' and names=\\['encoder.block.0'\\]: give one of the two"):
        watch(build("t5"), lambda index, hidden: None, stack="encoder", names=["encoder.block.0"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("norm", {"twice": True}, "names: module 'norm' is made 2 times in a forward pass of Odd, not once"),
        ("spare", {}, "names: module 'spare' is made 0 times in a forward pass of Odd, not once"),
    ],
)
def test_a_named_module_that_is_not_run_once_is_refused(name: str, options: dict[str, bool], message: str) -> None:
    model = Odd()
    with watch(model, lambda index, hidden: None, names=[name]), pytest.raises(UserError, match=message):
        model(tokens(), **options)


class Fixed(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, hidden: Tensor) -> object:
        return self.output


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (torch.ones(2, 9), r"torch.float32 \[2, 9\]"),
        (torch.ones(2, 9, 3, 4), r"torch.float32 \[2, 9, 3, 4\]"),
        (torch.ones(2, 9, 4, dtype=torch.int64), r"torch.int64 \[2, 9, 4\]"),
        (None, "NoneType"),
        ((None, "text"), "tuple"),
    ],
)
def test_a_layer_that_gives_no_hidden_states_is_refused(output: object, shown: str) -> None:
    model = nn.Sequential(Fixed(output))
    message = f"names: module '0' is {shown}: a layer must give floating-point numbers"
    with watch(model, lambda index, hidden: None, names=["0"]), pytest.raises(UserError, match=message):
        model(torch.ones(2, 9, 4))


class Loop(nn.Module):
    """A list of blocks that are run as often as is said."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(self, hidden: Tensor, order: tuple[int, ...]) -> Tensor:
        for number in order:
            hidden = self.blocks[number](input=hidden)
        return hidden


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((0, 1, 2), None),
        ((0, 2), r"hidden_states\[1\] is made 0 times in a forward pass of Loop"),
        ((0, 1, 1, 2), r"hidden_states\[1\] is made 2 times in a forward pass of Loop"),
    ],
)
def test_blocks_that_are_not_run_once_are_found(order: tuple[int, ...], message: str | None) -> None:
    model = Loop()
    with watch(model, lambda index, hidden: None) as watched, torch.no_grad():
        with pytest.raises(UserError, match="no forward pass of Loop was seen"):
            watched.check()
        model(torch.ones(1, 2, 4), order)
        with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
            watched.check()


def test_shared_blocks_that_run_oftener_than_the_configuration_says_are_found() -> None:
    model = build("albert", head=False)
    seen: list[int] = []
    with watch(model, lambda index, hidden: seen.append(index)) as watched, torch.no_grad():
        model.encoder.config.num_hidden_layers = 5
        model(tokens())
        with pytest.raises(UserError, match=r"hidden_states\[3\] is made 2 times"):
            watched.check()
    assert seen == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_blocks(model: nn.Module) -> nn.Module:
    blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for number, block in enumerate(blocks):
        blocks[number] = torch.compile(block, backend="eager")
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    for block in find_blocks(model):
        block.compile(backend="eager")
    return model


def parallel(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def adapted(model: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    # An adapter begins as nothing: the hidden states are the model's own.
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))


WRAPPERS = (compiled, compiled_blocks, compiled_in_place, parallel, adapted)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_wrapped_models(name: str, wrap: object, one_process: None) -> None:
    torch._dynamo.reset()
    with torch.no_grad():
        expected = build(name)(**padded(), output_hidden_states=True).hidden_states
    model = wrap(build(name))
    for run in (body(model), model):
        assert_entries(see(model, run, padded()), expected)
    assert count_layers(model) == len(expected)
    assert find_stacks(model) == ()


def test_the_stacks_of_a_wrapped_encoder_decoder(one_process: None) -> None:
    model = parallel(build("bart"))
    assert find_stacks(model) == ("encoder", "decoder")
    assert body(model, stack="encoder") is unwrap(model).model.encoder
    names = ["model.encoder.layers.0", "model.decoder.layers.1"]  # of the model inside
    assert [index for index, _ in see(model, unwrap(model), padded(), names=names)] == [0, 1]


def test_a_model_that_ran_compiled_before_it_was_watched_is_found() -> None:
    torch._dynamo.reset()
    model = build("llama")
    run = torch.compile(model, backend="eager")
    with torch.no_grad():
        run(**padded())
    with pytest.raises(UserError, match="no forward pass of LlamaModel was seen: .*compiled must be watched before"):
        see(model, run, padded())


@pytest.mark.parametrize("way", ["cpu", "disk", "devices"])
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_offloaded_models(name: str, way: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    stack = "encoder" if name == "t5" else None
    model = build(name)
    with torch.no_grad():
        expected = body(model, stack)(**padded(), output_hidden_states=True).hidden_states
    if way == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    elif way == "disk":
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    else:
        block = next(part for part, module in model.named_modules() if module is find_blocks(model, stack)[1])
        devices = {part: "disk" if part == block else "cpu" for part in spread(model, block)}
        accelerate.dispatch_model(model, devices, offload_dir=str(tmp_path), force_hooks=True, main_device="cpu")
        assert next(model.get_submodule(block).parameters()).is_meta
    assert_entries(see(model, body(model, stack), padded(), stack=stack), expected)


def spread(model: nn.Module, name: str) -> list[str]:
    """Names of modules and weights that together are the whole model, `name` among them."""
    parts = []
    for child, module in model.named_children():
        if name == child:
            parts.append(child)
        elif name.startswith(f"{child}."):
            parts += [f"{child}.{part}" for part in spread(module, name.removeprefix(f"{child}."))]
        elif next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
            parts.append(child)
    return parts


class Packed(nn.Module):
    """A quantised linear layer, its weights packed into integers that are no parameters."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("packed", torch.ones(features // 2, features, dtype=torch.uint8))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.packed.to(hidden.dtype).mean()


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.adapters = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
        self.blocks = nn.ModuleList([Packed(16) for _ in range(3)])

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


def test_packed_weights_count() -> None:
    model = Quantised()
    assert find_blocks(model) == list(model.blocks)
    assert [index for index, _ in see(model, model, {"ids": tokens()})] == [0, 1, 2, 3]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(torch.int8)
    assert find_blocks(model) == list(model.blocks)
