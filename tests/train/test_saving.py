"""What is written is whole or not there, and what was there before is kept."""

import signal

import pytest
import torch
import transformers
from models import build, tokens

from decondense import UserError
from decondense.texts import tokenizer as tokenizers
from decondense.train.saving import save_model, save_state

resource = pytest.importorskip("resource")


@pytest.fixture
def small_disk():
    """Files of this process may hold a thousand bytes: what a full disk does to a writer, by a means that needs no disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def shrink():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    yield shrink
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_state_that_does_not_fit_leaves_the_one_before(tmp_path, small_disk):
    path = tmp_path / "state.pt"
    save_state(path, {"a": torch.arange(4)}, "")
    small_disk()
    for size in (1_000, 1_000_000):
        with pytest.raises(UserError, match=r"state.pt: cannot be written \(File too large\); kept; make room"):
            save_state(path, {"a": torch.arange(size)}, "; kept")
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(4))


def test_a_model_that_does_not_fit_is_one_line(tmp_path, small_disk):
    words = tokenizers.train(["to be"], 257)
    small_disk()
    with pytest.raises(UserError, match=r"model.safetensors: cannot be written \(.*File too large"):
        save_model(build("gpt2"), words, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gemma"])
def test_a_saved_model_is_loaded_with_its_weights(name, tmp_path):
    model = build(name)
    save_model(model, tokenizers.train(["to be"], 257), tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path)) == 257
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
