"""A run reads each person as often as it says, goes on after a stop to the same weights, and learns what it reads."""

import dataclasses
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from decondense.errors import UserError
from decondense.evaluate.biographies import FIELDS, VOCABULARY, Biographies
from decondense.evaluate.capacity import model_scorer, score
from decondense.studies import capacity_run
from decondense.studies.capacity_run import CapacityRun, Size, build_model, count_parameters, reading, run_capacity

CPU = torch.device("cpu")
RUN = CapacityRun(Size(1, 8, 1), 10, 7, "dispersion", 1.0, 3, batch_size=4, learning_rate=1e-2)


def names(batch):
    return [tuple(row[1:7].tolist()) for row in batch["input_ids"]]


def test_each_person_is_read_as_often_as_said_and_once_in_each_exposure():
    batch_at = reading(Biographies(10, seed=3), RUN, CPU)
    read = [name for step in range(RUN.steps) for name in names(batch_at(step))]
    assert len(read) == 70
    for exposure in range(7):
        assert len(set(read[10 * exposure : 10 * exposure + 10])) == 10
    assert set(Counter(read).values()) == {7}
    # Not in the same order each time.
    assert len({tuple(read[10 * exposure : 10 * exposure + 10]) for exposure in range(7)}) == 7


def test_batches_are_a_function_of_the_step_and_twins_read_the_same():
    biographies = Biographies(10, seed=3)
    first = reading(biographies, RUN, CPU)
    twin = reading(biographies, dataclasses.replace(RUN, formulation=None, weight=0.0), CPU)
    later = first(9)["input_ids"]
    first(2)
    assert torch.equal(first(9)["input_ids"], later)
    assert torch.equal(twin(9)["input_ids"], later)
    other = reading(biographies, dataclasses.replace(RUN, seed=4), CPU)(9)["input_ids"]
    assert other.shape != later.shape or not torch.equal(other, later)


def test_padding_is_neither_seen_nor_predicted():
    batch = reading(Biographies(10, seed=3), RUN, CPU)(0)
    padding = batch["input_ids"] == 0
    assert padding.any()
    assert torch.equal(padding, batch["attention_mask"] == 0)
    assert torch.equal(padding, batch["labels"] == -100)


def test_parameters_are_counted_with_the_embedding_once():
    model = build_model(Size(2, 18, 3), 0)
    total, inner = count_parameters(model)
    # Each block: attention 4 (d^2 + d), MLP 8 d^2 + 5 d, two norms 4 d; then the last norm and the tied embedding.
    assert inner == 2 * (12 * 18**2 + 13 * 18) + 2 * 18
    assert total == inner + len(VOCABULARY) * 18
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(capacity_run, "SAVE_EVERY", 10)
    run = dataclasses.replace(RUN, exposures=14)  # 35 steps
    whole = run_capacity(tmp_path / "whole", run, CPU)

    class Stopped(Exception):
        pass

    def stop(step):
        if step == 28:
            raise Stopped

    with pytest.raises(Stopped):
        run_capacity(tmp_path / "parts", run, CPU, stop)
    folder = tmp_path / "parts" / run.folder
    assert (folder / "state.pt").exists() and not (folder / "capacity.json").exists()
    steps = []
    continued = run_capacity(tmp_path / "parts", run, CPU, steps.append)
    assert steps[0] == 21 and not (folder / "state.pt").exists()
    weights = [load_file(tmp_path / part / run.folder / "model.safetensors") for part in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert {**continued, "seconds": 0} == {**whole, "seconds": 0}
    # A finished run is read, not trained.
    monkeypatch.setattr(capacity_run, "train", None)
    assert run_capacity(tmp_path / "parts", run, CPU) == continued


def test_a_model_that_reads_more_knows_more(tmp_path):
    few = run_capacity(tmp_path, dataclasses.replace(RUN, exposures=8), CPU)
    many = run_capacity(tmp_path, dataclasses.replace(RUN, exposures=80), CPU)
    assert many["bits"] > few["bits"] + 200
    assert many["bits"] < many["most_bits_per_parameter"] * many["parameters"]
    assert many["bits_per_parameter"] == pytest.approx(sum(many["bits_by_field"].values()) / many["parameters"])
    assert len(many["mean_cosine"]) == 2 and set(many["losses"]) == {field.name for field in FIELDS}


def test_padding_does_not_change_what_a_model_scores():
    # Whatever the batch is padded to, a row's log-probabilities are its own.
    model, biographies = build_model(Size(2, 12, 2), 1), Biographies(20, seed=0)
    together = score(model_scorer(model), biographies, batch_size=20)
    alone = score(model_scorer(model), biographies, batch_size=20)
    assert together == alone
    written = biographies.write(torch.arange(20), torch.Generator().manual_seed(0))
    rows = model_scorer(model)(written.tokens)
    length = int(written.mask[3].sum())
    single = model_scorer(model)(written.tokens[3:4, :length])
    assert torch.allclose(rows[3, :length], single[0], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("2x18", "expected LAYERSxWIDTHxHEADS"),
        ("0x18x3", "expected LAYERSxWIDTHxHEADS"),
        ("2x18x4", "multiple of twice the heads"),
    ],
)
def test_a_size_that_cannot_be_is_refused(text, wrong):
    with pytest.raises(UserError, match=wrong):
        Size.parse(text)
