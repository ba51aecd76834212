"""Numbers reach the trackers that were named, by their interfaces; one that is missing is told."""

import sys
import types

import pytest
from PIL import Image

from decondense import UserError
from decondense.train.trackers import following


def test_nobody_is_told_where_nobody_asked(tmp_path):
    with following([], tmp_path, "run", {}) as log:
        log(1, {"a": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_wandb_and_trackio_get_every_number_under_the_name_of_the_run(tmp_path, monkeypatch):
    told = []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            told.append("finished")

        def log(self, numbers, step):
            told.append((step, numbers))

    def begin(project, name, config, dir=None):
        told.append((project, name, config))
        return Run()

    trackio = types.SimpleNamespace(
        init=begin,
        log=lambda numbers, step: told.append((step, numbers)),
        finish=lambda: told.append("finished"),
        Image=lambda path: ("picture", path),
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=begin, Image=lambda path: ("picture", path)))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    with following(["wandb", "trackio"], tmp_path, "koleo-seed1", {"steps": 3}) as log:
        log(2, {"loss": 0.5})
        log(3, {"seen": tmp_path / "seen.png"})
    begun, numbers = ("decondense", "koleo-seed1", {"steps": 3}), (2, {"loss": 0.5})
    picture = (3, {"seen": ("picture", str(tmp_path / "seen.png"))})
    assert told == [begun, begun, numbers, numbers, picture, picture, "finished", "finished"]


def test_tensorboard_s_files_hold_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (30, 20)).save(tmp_path / "seen.png")
    with following(["tensorboard"], tmp_path, "run", {}) as log:
        for step in (1, 2):
            log(step, {"loss": step / 4})
        log(2, {"seen": tmp_path / "seen.png"})
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    [image] = found.Images("seen")
    assert (image.step, image.width, image.height) == (2, 30, 20)
    events = found.Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 0.25), (2, 0.5)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_told(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    wanted = f"--report-to {name}: it is not installed; pip install {name} brings it"
    with pytest.raises(UserError, match=wanted), following([name], tmp_path, "run", {}):
        pass
