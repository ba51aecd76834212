"""`decondense measure` from the command line: what it writes, what it says of bad input, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from saved import POSITIONS, WORDS, save_tiny_model

from decondense import Condensation, models
from decondense.cli import main
from decondense.commands import measure as command
from decondense.commands.measure import table
from decondense.measure import measure
from decondense.texts import sampling, sources

FILES = ["heatmap.csv", "heatmap.png", "heatmap.svg", "results.json", "run.json"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred lines of words in different orders."""
    words = WORDS.split()
    lines = [" ".join(words[n % len(words) :] + words[: n % len(words)][::-1]) for n in range(100)]
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text("\n".join(lines))
    return path


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def options(texts: Path | str, out: Path, *more: str) -> list[str]:
    return ["--texts", str(texts), "--out", str(out), "--samples", "3", "--max-length", str(POSITIONS), *more]


def fail(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["measure", *map(str, words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return line


def test_it_writes_what_measure_gives(
    tiny: Path, texts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", str(tiny), *options(texts, tmp_path / "out", "--seed", "4")]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert contents(tmp_path / "out") == sorted([*FILES, "tiny.npz"])

    model, tokenizer = models.load(str(tiny))
    drawn = sampling.draw(sources.load(str(texts)), 3, seed=4)
    expected = measure(model, tokenizer, drawn, max_length=POSITIONS, seed=4)
    saved = Condensation.load(tmp_path / "out" / "tiny.npz")
    numpy.testing.assert_array_equal(saved.per_text, expected.per_text)
    numpy.testing.assert_array_equal(saved.histogram, expected.histogram)

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["kind"] == "condensation"
    assert results["config"]["seed"] == 4
    assert results["config"]["texts"] == str(texts)
    [entry] = results["models"]
    assert entry == {**expected.summary(), "model": str(tiny), "file": "tiny.npz"}
    assert entry["samples"] == 3
    assert entry["tokens"] == 3 * POSITIONS
    assert len(entry["mean_cosine"]) == len(entry["mean_cosine_interval"]) == 3  # embeddings and two blocks

    header, row, wrote = printed.out.splitlines()
    assert header.split()[:3] == ["model", "texts", "tokens"]
    assert row.split()[:4] == ["tiny", "3", str(3 * POSITIONS), f"{expected.mean_cosine[0]:.3f}"]
    assert all(name in wrote for name in contents(tmp_path / "out") if name != "run.json")


def test_several_models_are_told_apart(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny_model(tmp_path / "elsewhere" / "tiny", vocabulary=400)
    assert main(["measure", str(tiny), str(other), *options(texts, tmp_path / "out")]) == 0
    entries = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert [entry["model"] for entry in entries] == [str(tiny), str(other)]
    assert [Condensation.load(tmp_path / "out" / entry["file"]).model for entry in entries] == [str(tiny), str(other)]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == [str(tiny), str(other)]


def test_metrics_by_name_come_into_the_results(tiny: Path, texts: Path, tmp_path: Path) -> None:
    assert (
        main(["measure", str(tiny), *options(texts, tmp_path / "out", "--metrics", "effective_rank, mean_cosine")]) == 0
    )
    [entry] = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert list(entry["metrics"]) == ["effective_rank"]
    assert len(entry["metrics"]["effective_rank"]) == 3
    # A heatmap is drawn of histograms, which were not asked for.
    assert contents(tmp_path / "out") == ["results.json", "run.json", "tiny.npz"]


def test_the_embedded_corpus_is_measured_on_without_being_named(tiny: Path, tmp_path: Path) -> None:
    words = ["measure", str(tiny), "--out", str(tmp_path / "out"), "--samples", "2", "--max-length", "32"]
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["config"]["texts"] == "embedded"


def test_a_real_model_on_real_text(stories260K: Path, data: Path, tmp_path: Path) -> None:
    text = data / "texts" / "tinystories" / "tinystories_val_794k.txt"
    assert main(["measure", str(stories260K), *options(text, tmp_path / "out", "--max-length", "256")]) == 0
    [entry] = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    # What 20 other texts of 256 tokens gave by the authors' package; texts differ by less than 0.02 in each layer.
    authors = [0.136, 0.205, 0.189, 0.211, 0.239, 0.231]
    numpy.testing.assert_allclose(entry["mean_cosine"], authors, atol=0.03)


def test_a_warning_is_one_line(tiny: Path, texts: Path, tmp_path: Path) -> None:
    words = ["measure", str(tiny), *options(texts, tmp_path / "out"), "--max-length", "4000"]
    finished = subprocess.run([sys.executable, "-m", "decondense", *words], capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0
    [line] = finished.stderr.splitlines()
    assert line.startswith("decondense: warning: max_length=4000")


BAD_TEXTS = {
    "empty.txt": (b"", "is empty"),
    "latin.txt": (b"caf\xe9 au lait", "is not UTF-8: byte 3 is 0xe9"),
    "bad.jsonl": (b'{"text": "a"}\n{"text"\n', "line 2 is not JSON"),
    "fields.jsonl": (b'{"title": "a"}', "its fields are title"),
    "short.txt": (b"x", "1 token"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_text_is_one_line_and_leaves_nothing(
    name: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD_TEXTS[name]
    (tmp_path / name).write_bytes(content)
    line = fail(capsys, tiny, *options(tmp_path / name, tmp_path / "new" / "out"), "--samples", "1")
    assert line.startswith("decondense: error: ")
    assert message in line
    assert name in line
    assert contents(tmp_path) == [name]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--texts", "nope.txt"], "no such file or folder"),
        (["--texts", "wikitext"], "wikitext' (Salesforce/wikitext): the hub cannot be reached"),
        (["--samples", "0"], "--samples 0: must be at least 1"),
        (["--max-length", "1"], "--max-length 1: must be at least 2"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--metrics", "mean_cosin"], "metric 'mean_cosin' is not known: did you mean 'mean_cosine'?"),
        (["--metrics", ","], "names no metric"),
        (["--device", "gpu"], "device 'gpu' is not known"),
        (["--dtype", "half"], "--dtype 'half' is not known"),
        (["--out", "/dev/null/out"], "cannot write there"),
        (["--out", "/dev/null"], "cannot write there"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(
    more: list[str], message: str, tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fail(capsys, tiny, *options(texts, tmp_path / "out"), *more)
    assert contents(tmp_path) == []


def test_a_model_that_is_not_there_stops_all_before_anything_is_measured(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure", lambda *_, **__: pytest.fail("measured"))
    for name, message in (("./nope", "no such folder"), ("no/such-model", "the hub cannot be reached")):
        assert message in fail(capsys, tiny, name, *options(texts, tmp_path / "out"))
    assert "no MODEL was given" in fail(capsys, *options(texts, tmp_path / "out"))
    assert "given twice" in fail(capsys, tiny, tiny, *options(texts, tmp_path / "out"))
    assert contents(tmp_path) == []


def test_a_tokenizer_that_does_not_match_is_one_line_and_finished_models_stay(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = save_tiny_model(tmp_path / "wrong", vocabulary=200)
    assert "its tokenizer does not match the model" in fail(capsys, wrong, *options(texts, tmp_path / "alone"))
    assert contents(tmp_path) == ["wrong"]
    assert "its tokenizer does not match the model" in fail(capsys, tiny, wrong, *options(texts, tmp_path / "out"))
    assert contents(tmp_path / "out") == ["results.json", "run.json", "tiny.npz"]


def test_a_folder_with_the_results_of_another_run_is_left_alone(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", str(tiny), *options(texts, tmp_path / "out")]) == 0
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "holds another run (seed 0 there, 1 now" in fail(
        capsys, tiny, *options(texts, tmp_path / "out", "--seed", "1")
    )
    # Also where the file of texts is another one under the same name.
    changed = tmp_path / texts.name
    changed.write_text(texts.read_text())
    assert main(["measure", str(tiny), *options(changed, tmp_path / "second")]) == 0
    changed.write_text(texts.read_text().upper())
    capsys.readouterr()
    assert "texts_sha256" in fail(capsys, tiny, *options(changed, tmp_path / "second"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_of_something_else_is_left_alone(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds no run" in fail(capsys, tiny, *options(texts, tmp_path))
    assert contents(tmp_path) == ["thesis.tex"]


def test_the_same_command_measures_nothing_twice(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["measure", str(tiny), *options(texts, tmp_path / "out")]
    assert main(words) == 0
    first = capsys.readouterr().out
    results = (tmp_path / "out" / "results.json").read_bytes()
    monkeypatch.setattr(command, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "out" / "results.json").read_bytes() == results


# Measures the first model, and from then on waits until it is interrupted; a file says when it began to wait.
WAITING = """
import pathlib, signal, sys, time
from decondense.cli import main
from decondense.commands import measure as command
signal.signal(signal.SIGINT, signal.default_int_handler)    # ignored where a shell has put the tests in the background
first, flag, *words = sys.argv[1:]
measure = command.measure
def wait(model, *rest, **options):
    if model.config.name_or_path == first:
        return measure(model, *rest, **options)
    pathlib.Path(flag).touch()
    time.sleep(100)
command.measure = wait
sys.exit(main(words))
"""


def interrupt(first: Path | str, flag: Path, words: Sequence[str]) -> tuple[int, str, str]:
    """Run `words`, interrupt them as Ctrl-C does once the flag is there; exit status, standard output and error."""
    program = [sys.executable, "-c", WAITING, str(first), str(flag), *words]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 100
        while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(tiny: Path, texts: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", vocabulary=400)
    words = ["measure", str(tiny), str(other), *options(texts, tmp_path / "out")]
    status, out, err = interrupt(tiny, tmp_path / "flag", words)
    assert (status, out) == (130, "")
    [line] = err.splitlines()
    assert line.startswith("decondense: interrupted: ")
    assert "run the same command again" in line
    assert contents(tmp_path / "out") == ["results.json", "run.json", "tiny.npz"]
    [entry] = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert entry["model"] == str(tiny)

    assert main(words) == 0
    assert main(["measure", str(tiny), str(other), *options(texts, tmp_path / "whole")]) == 0
    whole = (tmp_path / "whole" / "results.json").read_text()
    assert (tmp_path / "out" / "results.json").read_text() == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_run_interrupted_before_its_first_result_leaves_nothing(tiny: Path, texts: Path, tmp_path: Path) -> None:
    words = ["measure", str(tiny), *options(texts, tmp_path / "new" / "out")]
    status, out, err = interrupt("none", tmp_path / "flag", words)
    assert (status, out, err.count("\n")) == (130, "", 1)
    assert contents(tmp_path) == ["flag"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_run_interrupted_while_it_reads_is_one_line(tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    # Opening a pipe for writing waits for its reader, who then waits for text: the run is inside its reading.
    program = [sys.executable, "-c", WAITING, "none", str(tmp_path / "flag"), "measure", str(tiny)]
    program += options(tmp_path / "pipe.txt", tmp_path / "out")
    with (
        subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process,
        (tmp_path / "pipe.txt").open("wb"),
    ):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert contents(tmp_path) == ["pipe.txt"]


def test_names_of_files_are_such_as_every_system_takes_and_differ() -> None:
    names: Any = ["EleutherAI/pythia-70m@step1", "a/b", "a--b", "A/B", "x:y", "..", "@"]
    files = command._file_names(command._titles(names))
    assert files[:2] == ["EleutherAI--pythia-70m@step1.npz", "a--b.npz"]
    assert len({file.lower() for file in files}) == len(names)
    assert all(
        set(file) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@+") for file in files
    )


def test_the_table_stands_in_columns_and_marks_what_is_not_defined() -> None:
    entry = {
        "model": "a-long-name",
        "mean_cosine": [0.5],
        "mean_cosine_interval": [[None, None]],
        "spearman": None,
        "kendall": None,
        "samples": 1,
        "tokens": 12345,
    }
    lines = table([entry, {**entry, "model": "b", "mean_cosine_interval": [[-0.25, 0.75]]}])
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["a-long-name", "1", "12345", "0.500", "0.500", "0.500", "-", "-"]
    assert "0.500 [-0.250 0.750]" in lines[2]
