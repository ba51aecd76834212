"""A model is loaded whole with the tokenizer that belongs to it, or one line says why it cannot be."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from saved import WORDS, save_tiny_model

from decondense import models
from decondense.errors import UserError
from decondense.models import Place, choose_device, find, load


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model in a folder that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "spoilt"))


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def fail(folder: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        load(str(folder), **options)
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_a_folder_gives_the_model_and_its_tokenizer(tiny: Path) -> None:
    model, tokenizer = load(str(tiny))
    expected = transformers.GPT2LMHeadModel.from_pretrained(tiny)
    assert isinstance(model, transformers.GPT2LMHeadModel)
    assert not model.training
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
    assert tokenizer.decode(tokenizer(WORDS)["input_ids"]) == WORDS


def test_loading_prints_nothing(tiny: Path, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(str(tiny))
    change(copy, n_embd=8)
    fail(copy)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_transformers_is_left_as_talkative_as_it_was(tiny: Path) -> None:
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(str(tiny))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_precision_is_the_one_asked_for(tiny: Path, dtype: str, expected: torch.dtype) -> None:
    assert load(str(tiny), dtype=dtype)[0].dtype == expected


def test_auto_keeps_the_precision_of_the_file(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert load(str(folder))[0].dtype == torch.bfloat16


def test_an_encoder_is_loaded_without_a_head(copy: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=300, **shape)).save_pretrained(copy)
    # What was saved has no pooling layer; a random one appears, which no hidden state passes, and is no error.
    assert isinstance(load(str(copy))[0], transformers.BertModel)


def test_a_model_saved_without_its_head_is_loaded_without_one(copy: Path) -> None:
    transformers.GPT2Model.from_pretrained(copy).save_pretrained(copy)
    assert isinstance(load(str(copy))[0], transformers.GPT2Model)


def test_a_real_model_is_loaded(stories260K: Path) -> None:
    model, tokenizer = load(str(stories260K))
    assert isinstance(model, transformers.LlamaForCausalLM)
    assert sum(parameter.numel() for parameter in model.parameters()) == 260_032
    with torch.inference_mode():
        likely = model(**tokenizer("Once upon a", return_tensors="pt")).logits[0, -1].argmax()
    assert tokenizer.decode([int(likely)]).strip() == "time"


def test_weights_in_several_files_are_loaded(copy: Path) -> None:
    model = transformers.GPT2LMHeadModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="10KB")
    assert not (copy / "model.safetensors").exists()
    assert torch.equal(load(str(copy))[0].lm_head.weight, model.lm_head.weight)


def pickle_weights(folder: Path) -> None:
    torch.save(transformers.GPT2LMHeadModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_a_pickle_is_loaded_only_where_it_is_allowed(tiny: Path, copy: Path) -> None:
    pickle_weights(copy)
    assert "--allow-pickle" in fail(copy)
    loaded, expected = load(str(copy), allow_pickle=True)[0], load(str(tiny))[0]
    assert torch.equal(loaded.lm_head.weight, expected.lm_head.weight)


def test_code_of_a_model_runs_only_where_it_is_trusted(copy: Path) -> None:
    (copy / "own.py").write_text(
        "import transformers\nclass Own(transformers.GPT2Config):\n    model_type = 'own'\n    is_own = True\n"
    )
    change(copy, model_type="own", auto_map={"AutoConfig": "own.Own"})
    assert "--trust-remote-code" in fail(copy)


def break_off(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {
        "transformer.wte.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "an adapter": (
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        "an adapter without its model",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights: model.safetensors is missing"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer: tokenizer.json is missing"),
    "config not JSON": (lambda folder: (folder / "config.json").write_text("{"), "configuration cannot be loaded"),
    "unknown architecture": (lambda folder: change(folder, model_type="zork"), "model type `zork`"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "weights cannot be loaded"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
        "weights cannot be loaded",
    ),
    "another width": (lambda folder: change(folder, n_embd=8), "do not fit its config.json: transformer.h.0"),
    "more layers": (lambda folder: change(folder, n_layer=3), "12 weights that its config.json asks for are missing"),
    "tokenizer not JSON": (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
    "tokenizer without parts": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "tokenizer cannot be loaded (KeyError: ",
    ),
    "another kind of model": (
        lambda folder: transformers.T5Config(d_model=8, num_layers=1).save_pretrained(folder),
        "weights that its config.json asks for are missing",
    ),
    "a download that broke off": (
        lambda folder: break_off(folder),
        "is not complete: 1 of 2 files of weights are missing, such as model-00002-of-00002.safetensors; download the model again",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_one_line(copy: Path, name: str) -> None:
    spoil, message = SPOILT[name]
    spoil(copy)
    assert message in fail(copy)


def test_a_tokenizer_of_another_model_is_an_error(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, vocabulary=200)
    assert "the embedding table has 200 rows" in fail(folder)


def test_a_token_that_was_added_beyond_the_table_is_none(copy: Path) -> None:
    # Released models come with padding tokens that they were not trained with; no text contains one.
    tokenizer = transformers.AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(copy)
    model, loaded = load(str(copy))
    assert loaded.pad_token_id == len(model.get_input_embeddings().weight)


def test_a_name_is_a_folder_a_name_of_the_hub_or_that_with_a_revision(tiny: Path) -> None:
    assert find(str(tiny)) == Place(str(tiny), local=True)
    assert find("gpt2") == Place("gpt2")
    assert find("org/model@step1") == Place("org/model", "step1")
    assert find("org/model", revision="step1") == Place("org/model", "step1")
    assert str(find("org/model@step1")) == "org/model@step1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nope", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("a/b/c", "no such folder"),
        ("gpt2@", "no revision after the @"),
        ("two words", "neither a folder here nor a name that the hub can have"),
        ("", "neither a folder here"),
    ],
)
def test_a_name_that_means_nothing_is_an_error(name: str, message: str) -> None:
    assert message in fail(name)


def test_a_folder_has_no_revisions_and_a_file_is_no_folder(tiny: Path) -> None:
    for name, revision in ((str(tiny), "main"), (f"{tiny}@main", None)):
        with pytest.raises(UserError, match="is a folder and has no revision 'main'"):
            find(name, revision)
    with pytest.raises(UserError, match="is a file: give the folder"):
        find(str(tiny / "config.json"))


def test_a_model_of_the_hub_that_is_not_in_the_cache_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert "the hub cannot be reached and its cache does not hold it; give a local folder" in fail("no/such-model")
    with pytest.raises(UserError, match="cannot be reached"):
        models.check("no/such-model@step1")
    assert capfd.readouterr().err == ""


def test_without_the_hub_its_cache_serves(tiny: Path, tmp_path: Path) -> None:
    # In a process of its own, as huggingface_hub reads where its cache is but once; the endpoint refuses connections.
    snapshot = tmp_path / "hub" / "models--own--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "step1").write_text("0" * 40)
    program = "from decondense import models; print(type(models.load('own/tiny@step1')[0]).__name__)"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9", "PATH": ""},
    )
    assert (finished.stdout, finished.stderr) == ("GPT2LMHeadModel\n", "")


def test_a_switch_of_the_hub_is_left_as_it_was() -> None:
    before = constants.HF_HUB_OFFLINE
    fail("no/such-model")
    assert before == constants.HF_HUB_OFFLINE


def test_check_finds_what_load_would_find_without_loading_weights(tiny: Path, copy: Path) -> None:
    models.check(str(tiny))
    (copy / "model.safetensors").write_bytes(b"")
    models.check(str(copy))  # a fault inside the weights is seen by reading them only
    change(copy, model_type="zork")
    with pytest.raises(UserError, match="zork"):
        models.check(str(copy))


def test_devices_that_are_not_there_are_errors() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UserError, match="'gpu' is not known: give auto, cpu"):
        choose_device("gpu")
    with pytest.raises(UserError, match="'cuda:99' is not there"):
        choose_device("cuda:99")


def test_an_unknown_precision_is_an_error(tiny: Path) -> None:
    with pytest.raises(UserError, match="dtype 'float8' is not known"):
        load(str(tiny), dtype="float8")
