"""A loss attached for TRL: it reaches what SFTTrainer trains on, and where it would be lost that is told."""

from types import SimpleNamespace

import pytest
import torch
from models import build, tokens

from decondense import DispersionLoss, UserError, attach
from decondense.train.sft import attach_to_sft


def settings(**given):
    """What is read of a trainer."""
    model = given.pop("model", None) or build("gpt2").train()
    arguments = {"loss_type": "nll", "label_smoothing_factor": 0.0}
    given = {"compute_loss_func": None, "accelerator": None, **given}
    arguments |= {name: given.pop(name) for name in list(given) if name in arguments}
    return SimpleNamespace(model=model, args=SimpleNamespace(**arguments), **given)


def test_a_model_without_log_probabilities_is_attached_to_as_ever():
    trainer, ids = settings(), tokens()
    plain = trainer.model(ids, labels=ids).loss
    with attach_to_sft(trainer, DispersionLoss(), weight=0.5) as handle:
        loss = trainer.model(ids, labels=ids).loss
        torch.testing.assert_close(loss - plain, 0.5 * handle.loss(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss_type": "dft"}, "loss_type='dft': the term reaches loss_type='nll' alone"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
        ({"compute_loss_func": print}, "a compute_loss_func"),
        ({"accelerator": SimpleNamespace(parallelism_config=SimpleNamespace(cp_enabled=True))}, "context parallelism"),
    ],
)
def test_what_the_term_would_not_reach_is_told(given, message):
    with pytest.raises(UserError, match=message):
        attach_to_sft(settings(**given), DispersionLoss())


@pytest.fixture
def trainer(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    datasets = pytest.importorskip("datasets")
    from saved import save_tiny_model

    folder = save_tiny_model(tmp_path / "model")
    import transformers

    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **still)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [{"input_ids": tokens(1, 6 + 3 * number, seed=number)[0].tolist()} for number in range(4)]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none", activation_checkpointing=False,
        max_length=32, per_device_train_batch_size=4, disable_tqdm=True,
    )  # fmt: skip
    return trl.SFTTrainer(model, arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=words)


@pytest.mark.filterwarnings("ignore")  # of trl and its dependencies, which are not ours to mend
def test_the_term_is_in_the_loss_that_trl_computes(trainer):
    model = trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(model, dict(batch)) is not None
    with attach(model, DispersionLoss()), pytest.raises(UserError, match="attach_to_sft.*add_to_loss=False"):
        trainer.compute_loss(model, dict(batch))
    for total in (None, torch.tensor(100)):
        plain = trainer.compute_loss(model, dict(batch), num_items_in_batch=total)
        with attach_to_sft(trainer, DispersionLoss(), weight=0.5) as handle:
            loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=total)
            counted = (batch["labels"][:, 1:] != -100).sum()
            expected = 0.5 * handle.loss() * (1 if total is None else counted / total)
            torch.testing.assert_close(loss - plain, expected, rtol=1e-4, atol=1e-6)
            assert abs(float(expected)) > 1e-2
            loss.backward()
    # In evaluation nothing is added.
    model.eval()
    with torch.no_grad():
        plain = trainer.compute_loss(model, dict(batch))
        with attach_to_sft(trainer, DispersionLoss(), weight=0.5):
            assert torch.equal(trainer.compute_loss(model, dict(batch)), plain)
