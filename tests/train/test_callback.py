"""transformers' Trainer with the callbacks: what its logs, trackers and checkpoints hold, and that a resumed run ends with the same bits."""

import json
import math
import warnings

import pytest
import torch
from models import build
from PIL import Image
from transformers import PrinterCallback, Trainer, TrainingArguments

from decondense import DispersionLoss, Partition, UserError, attach
from decondense.train.callback import DispersionCallback, MonitorCallback
from decondense.train.monitor import CollapseWarning, Monitor
from decondense.train.schedules import Adaptive, GradientShare, Planned


def rows(count=24, length=12):
    """Rows of unequal length, padded at the right, as a Trainer takes them."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        ids = torch.randint(3, 50, (length,), generator=draw)
        mask = (torch.arange(length) < int(torch.randint(6, length + 1, (), generator=draw))).long()
        found.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return found


def make_trainer(folder, model, **options):
    given = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    trainer = Trainer(model, TrainingArguments(**{**given, **options}), train_dataset=rows())
    trainer.remove_callback(PrinterCallback)
    return trainer


def logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def run(folder, schedule=None, resume=None, weight=1.0, every=None, pairs="all", **options):
    """Train once; returns the trainer, its callback, and the trained weights."""
    model = build("gpt2")
    handle = attach(model, DispersionLoss(pairs=pairs), weight=weight)
    trainer = make_trainer(folder, model, **options)
    callback = DispersionCallback(handle, schedule, every=every).add_to(trainer)
    trainer.train(resume_from_checkpoint=resume)
    handle.detach()
    return trainer, callback, torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_the_logs_hold_the_term_its_weight_and_each_layer(tmp_path):
    trainer, callback, _ = run(tmp_path, weight=0.5)
    names = [f"mean_cosine/layer_{layer:02d}" for layer in range(4)] + ["dispersion/term", "dispersion/weight"]
    for entry in logs(trainer):
        assert set(names) <= set(entry)
        assert entry["dispersion/weight"] == 0.5
        seen = next(one for one in callback.monitor.history if one.step == entry["step"])
        assert [entry[name] for name in names[:4]] == list(seen.mean_cosine)
    assert [entry["step"] for entry in logs(trainer)] == [2, 4, 6, 8]
    # Observed at the first step, and then at those that are logged.
    assert [one.step for one in callback.monitor.history] == [1, 2, 4, 6, 8]


def test_the_term_is_averaged_as_the_trainer_averages_its_loss(tmp_path):
    # The learning rate is 0: the loss that is logged with the term, and without it, differ by the weighted term and nothing else.
    with_term, *_ = run(tmp_path, weight=0.5, learning_rate=0.0)
    without, *_ = run(tmp_path, weight=0.0, learning_rate=0.0)
    for one, other in zip(logs(with_term), logs(without), strict=True):
        # The Trainer rounds neither in its history, and sums in float32.
        assert one["loss"] - other["loss"] == pytest.approx(0.5 * one["dispersion/term"], abs=2e-5)
        assert one["dispersion/term"] == pytest.approx(other["dispersion/term"], abs=1e-6)
        assert abs(one["dispersion/term"]) > 0.05


def test_the_monitor_works_without_a_loss_and_leaves_no_hook(tmp_path):
    model = build("gpt2")
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    trainer = make_trainer(tmp_path, model)
    callback = MonitorCallback(every=3).add_to(trainer)
    trainer.train()
    assert [one.step for one in callback.monitor.history] == [1, 3, 6]
    assert "mean_cosine/layer_03" in logs(trainer)[0]
    # Nothing new at step 8, so nothing is told twice.
    assert "mean_cosine/layer_03" not in logs(trainer)[-1]
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    with Image.open(tmp_path / "mean_cosine.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.parametrize(("saved", "every"), [(4, 2), (5, 2), (4, 3)])
def test_a_resumed_run_ends_with_the_same_bits(saved, every, tmp_path):
    # Saved at an observation, which drives the step after the checkpoint, or between two of them; pairs are drawn anew at each step.
    options = {
        "schedule": Adaptive(0.02, start=1.0),
        "every": every,
        "pairs": Partition(3),
        "save_strategy": "steps",
        "save_steps": saved,
    }
    whole, callback, weights = run(tmp_path, **options)
    options["schedule"] = Adaptive(0.02, start=1.0)
    resumed, again, ended = run(tmp_path, **options, resume=str(tmp_path / f"checkpoint-{saved}"))
    assert len({entry["dispersion/weight"] for entry in logs(whole)}) > 2  # the controller did something
    assert [entry["dispersion/weight"] for entry in logs(resumed)] == [
        entry["dispersion/weight"] for entry in logs(whole)
    ]
    assert again.monitor.history == callback.monitor.history
    assert torch.equal(weights, ended)


def test_an_observation_before_a_checkpoint_drives_the_step_after_it(tmp_path):
    class Counting(Planned):
        """Remembers what it was told."""

        def weight(self, step, observed=None):
            told.append((step, observed is not None))
            return super().weight(step, observed)

    told = []
    run(tmp_path, Counting(1.0), save_strategy="steps", save_steps=4)
    whole, told = told, []
    run(tmp_path, Counting(1.0), resume=str(tmp_path / "checkpoint-4"))
    assert whole == [(0, False), (1, True), (2, True), (3, False), (4, True), (5, False), (6, True), (7, False)]
    assert told == whole[4:]


def test_a_planned_schedule_sets_the_weight_of_each_step(tmp_path):
    trainer, *_ = run(tmp_path, Planned(1.0, warmup=8))
    assert [entry["dispersion/weight"] for entry in logs(trainer)] == pytest.approx([2 / 8, 4 / 8, 6 / 8, 8 / 8])


def test_trackers_get_numbers_and_picture(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer, *_ = run(tmp_path / "out", report_to=["tensorboard"])
    [path] = (tmp_path / "events").rglob("events*")
    found = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    scalars = found.Scalars("train/mean_cosine/layer_03")
    assert [event.step for event in scalars] == [2, 4, 6, 8]
    # TensorBoard holds float32.
    assert [event.value for event in scalars] == pytest.approx(
        [entry["mean_cosine/layer_03"] for entry in logs(trainer)], abs=1e-6
    )
    assert "train/dispersion/term" in found.Tags()["scalars"]
    assert found.Tags()["images"] == ["mean_cosine"]


def test_a_checkpoint_is_json_also_where_a_layer_is_no_number(tmp_path):
    model = build("gpt2")
    trainer = make_trainer(tmp_path, model, max_steps=2, save_strategy="steps", save_steps=1)
    callback = MonitorCallback(every=1).add_to(trainer)
    see = Monitor._see

    def blind(self, index, hidden):
        if index != 2:
            see(self, index, hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "_see", blind)
        trainer.train()
    assert math.isnan(callback.monitor.history[0].mean_cosine[2])
    state = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    [[step, *means]] = state["stateful_callbacks"]["decondense.MonitorCallback"]["monitor"]["history"]
    assert (step, len(means), math.isnan(means[2])) == (1, 4, True)


def test_a_callback_behind_the_trackers_says_so(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    model = build("gpt2")
    trainer = make_trainer(tmp_path, model, report_to=["tensorboard"], max_steps=1)
    trainer.add_callback(MonitorCallback())
    with pytest.warns(
        UserWarning, match=r"after the callbacks of tensorboard.*MonitorCallback\(...\).add_to\(trainer\)"
    ):
        trainer.train()


def test_a_collapse_is_told_and_training_goes_on(tmp_path):
    model = build("gpt2")
    trainer = make_trainer(tmp_path, model)
    MonitorCallback(every=1, rise=1e-4, patience=1).add_to(trainer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollapseWarning)
        trainer.train()
    assert [one.category for one in caught] == [CollapseWarning]
    assert trainer.state.global_step == 8


def test_a_handle_of_another_model_is_told(tmp_path):
    other = attach(build("gpt2"), DispersionLoss())
    trainer = make_trainer(tmp_path, build("gpt2"))
    callback = DispersionCallback(other).add_to(trainer)
    with pytest.raises(
        UserError, match="the handle saw no training pass: attach the loss to the model that is trained"
    ):
        trainer.train()
    # A second try begins anew, without the hooks of the first.
    callback.handle = attach(trainer.model, DispersionLoss())
    trainer.train()
    assert [one.step for one in callback.monitor.history] == [1, 2, 4, 6, 8]


def test_what_cannot_be_is_told_before_the_training():
    handle = attach(build("gpt2"), DispersionLoss())
    with pytest.raises(UserError, match="GradientShare needs the gradients of both terms"):
        DispersionCallback(handle, GradientShare(0.1))
    with pytest.raises(UserError, match="every=0"):
        MonitorCallback(every=0)
