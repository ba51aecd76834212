"""`decondense measure` from the command line: what it writes, what it says of bad input, and how it goes on."""

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
import torch.distributed as dist
import transformers
from outcomes import contents, launch, refusal
from outcomes import results as written
from saved import POSITIONS, WORDS, save_tiny_model

from decondense import Condensation, models
from decondense.cli import main
from decondense.commands import measure as command
from decondense.commands.measure_report import Measured, stems, table, titles
from decondense.measure import measure
from decondense.texts import sampling, sources

TABLES = ["last-n.csv", "layers.csv", "layers.png", "layers.svg", "metrics.csv"]
FILES = ["heatmap.csv", "heatmap.png", "heatmap.svg", *TABLES, "results.json", "run.json"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred lines of words in different orders."""
    words = WORDS.split()
    lines = [" ".join(words[n % len(words) :] + words[: n % len(words)][::-1]) for n in range(100)]
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text("\n".join(lines))
    return path


def options(texts: Path | str, out: Path, *more: str) -> list[str]:
    return ["--texts", str(texts), "--out", str(out), "--samples", "3", "--max-length", str(POSITIONS), *more]


def fail(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    return refusal(capsys, "measure", *words)


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

    results = written(tmp_path / "out")
    assert results["kind"] == "condensation"
    assert results["config"]["seed"] == 4
    assert results["config"]["texts"] == [str(texts)]
    [entry] = results["models"]
    told = {"model": str(tiny), "texts": str(texts), "parameters": model.num_parameters(), "file": "tiny.npz"}
    assert entry == {**expected.summary(), **told}
    assert entry["samples"] == 3
    assert entry["tokens"] == 3 * POSITIONS
    assert len(entry["mean_cosine"]) == len(entry["mean_cosine_interval"]) == 3  # embeddings and two blocks

    header, _, row, *notes, wrote = printed.out.splitlines()
    assert header.split()[:3] == ["model", "texts", "tokens"]
    assert all(note.startswith("note: tiny: rho and tau are of 3 layers") for note in notes)
    assert row.split()[:4] == ["tiny", "3", str(3 * POSITIONS), f"{expected.mean_cosine[0]:.3f}"]
    assert wrote.endswith("results.json, tiny.npz, metrics.csv, last-n.csv, layers, heatmap (png, svg, csv)")


def test_several_models_are_told_apart(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny_model(tmp_path / "elsewhere" / "tiny", vocabulary=400)
    assert main(["measure", str(tiny), str(other), *options(texts, tmp_path / "out")]) == 0
    entries = written(tmp_path / "out")["models"]
    assert [entry["model"] for entry in entries] == [str(tiny), str(other)]
    assert [Condensation.load(tmp_path / "out" / entry["file"]).model for entry in entries] == [str(tiny), str(other)]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:4]] == [str(tiny), str(other)]


def test_metrics_by_name_come_into_the_results(tiny: Path, texts: Path, tmp_path: Path) -> None:
    assert (
        main(["measure", str(tiny), *options(texts, tmp_path / "out", "--metrics", "effective_rank, mean_cosine")]) == 0
    )
    [entry] = written(tmp_path / "out")["models"]
    assert list(entry["metrics"]) == ["effective_rank"]
    assert len(entry["metrics"]["effective_rank"]) == 3
    # A heatmap is drawn of histograms, which were not asked for.
    assert contents(tmp_path / "out") == sorted([*TABLES, "results.json", "run.json", "tiny.npz"])


def test_the_embedded_corpus_is_measured_on_without_being_named(tiny: Path, tmp_path: Path) -> None:
    words = ["measure", str(tiny), "--out", str(tmp_path / "out"), "--samples", "2", "--max-length", "32"]
    assert main(words) == 0
    assert written(tmp_path / "out")["config"]["texts"] == ["embedded"]


def test_a_real_model_on_real_text(stories260K: Path, data: Path, tmp_path: Path) -> None:
    text = data / "texts" / "tinystories" / "tinystories_val_794k.txt"
    assert main(["measure", str(stories260K), *options(text, tmp_path / "out", "--max-length", "256")]) == 0
    [entry] = written(tmp_path / "out")["models"]
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
    [entry] = written(tmp_path / "out")["models"]
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
    files = stems(list(titles(names).values()))
    assert files[:2] == ["EleutherAI--pythia-70m@step1", "a--b"]
    assert len({file.lower() for file in files}) == len(names)
    assert all(
        set(file) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@+") for file in files
    )


def test_the_table_stands_in_columns_and_marks_what_is_not_defined() -> None:
    rows = {"a-long-name": [[0.5]], "b": [[0.25], [0.75]]}
    measured = [
        Measured(
            "embedded", None, Condensation(name, 9, numpy.full(len(values), 4), {"mean_cosine": numpy.array(values)})
        )
        for name, values in rows.items()
    ]
    lines = table(measured).plain().splitlines()
    assert lines[2].split() == ["a-long-name", "1", "4", "0.500", "0.500", "0.500", "-", "-"]
    assert "0.500 [0.250 0.750]" in lines[3]


# --- several models, several texts, checkpoints -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("family")
    return [
        str(save_tiny_model(folder / f"size{vocabulary}", vocabulary=vocabulary)) for vocabulary in (300, 400, 500, 600)
    ]


def header(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split(",")


def test_a_family_is_drawn_by_size(others: list[str], texts: Path, tmp_path: Path) -> None:
    assert main(["measure", *others, "--family", *options(texts, tmp_path / "out")]) == 0
    results = written(tmp_path / "out")
    sizes = [entry["parameters"] for entry in results["models"]]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4
    assert "parameters" in header(tmp_path / "out" / "family.csv")
    # Each is compared with the first, on the same texts.
    assert [(one["first"], one["second"]) for one in results["comparisons"]] == [
        (others[0], name) for name in others[1:]
    ]


def test_pairs_are_drawn_side_by_side(
    others: list[str], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "in pairs: 3 were given" in fail(capsys, *others[:3], "--paired", *options(texts, tmp_path / "out"))
    assert main(["measure", *others, "--paired", *options(texts, tmp_path / "out", "--formats", "pdf")]) == 0
    assert "side" in header(tmp_path / "out" / "paired.csv")
    assert (tmp_path / "out" / "paired.pdf").read_bytes().startswith(b"%PDF")
    assert not list((tmp_path / "out").glob("*.png"))


def test_several_texts_are_a_grid_and_one_is_measured_anew_where_it_is_missing(
    others: list[str], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "measure",
        *others[:2],
        "--texts",
        str(texts),
        "embedded",
        "--out",
        str(tmp_path / "out"),
        "--samples",
        "3",
        "--max-length",
        "32",
    ]
    assert main(words) == 0
    results = written(tmp_path / "out")
    assert [(entry["model"], entry["texts"]) for entry in results["models"]] == [
        (model, source) for model in others[:2] for source in (str(texts), "embedded")
    ]
    # A comparison says on which texts it is, in the file and on the screen.
    assert [(one["second"], one["texts"]) for one in results["comparisons"]] == [
        (others[1], str(texts)),
        (others[1], "embedded"),
    ]
    second, first = (Path(name).name for name in (others[1], others[0]))
    printed = capsys.readouterr().out
    for source in (texts.name, "embedded"):
        assert f"  {second} - {first} on {source}: " in printed
    assert results["command"].startswith(f"decondense measure {others[0]} {others[1]} --texts {texts} embedded")
    assert (tmp_path / "out" / "texts.png").exists()
    assert not (tmp_path / "out" / "heatmap.png").exists()
    whole = (tmp_path / "out" / "results.json").read_bytes()
    (tmp_path / "out" / results["models"][3]["file"]).unlink()
    measured = []
    monkeypatch.setattr(command, "measure", lambda *given, **more: measured.append(given[2]) or measure(*given, **more))
    assert main(words) == 0
    assert len(measured) == 1
    assert (tmp_path / "out" / "results.json").read_bytes() == whole


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for step in (100, 0, 20):
        save_tiny_model(tmp_path / "training" / f"step{step}")
    return tmp_path / "training"


def test_checkpoints_are_drawn_in_the_order_of_training(checkpoints: Path, texts: Path, tmp_path: Path) -> None:
    assert main(["measure", str(checkpoints), "--revisions", "step*", *options(texts, tmp_path / "out")]) == 0
    entries = written(tmp_path / "out")["models"]
    assert [Path(entry["model"]).name for entry in entries] == ["step0", "step20", "step100"]
    assert "steps_seen" in header(tmp_path / "out" / "revisions.csv")


def test_a_revision_that_does_not_exist_is_one_line(
    checkpoints: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fail(capsys, checkpoints, "--revisions", "step0,step7", *options(texts, tmp_path / "out"))
    assert "has none called step7; it has step0, step100, step20" in line
    assert "of one MODEL alone" in fail(
        capsys, checkpoints, checkpoints, "--revisions", "step*", *options(texts, tmp_path / "out")
    )
    assert "holds no folders of checkpoints" in fail(
        capsys, texts.parent, "--revisions", "step*", *options(texts, tmp_path / "out")
    )


def test_all_metrics_bring_the_diagnosis_and_its_figures(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", str(tiny), *options(texts, tmp_path / "out", "--metrics", "all", "--logits")]) == 0
    [entry] = written(tmp_path / "out")["models"]
    assert len(entry["mean_cosine"]) == 4  # embeddings, two blocks, logits
    assert entry["diagnosis"]["sentence"] in capsys.readouterr().out
    assert {"positions.png", "similarity.png"} <= set(contents(tmp_path / "out"))
    lines = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * len({line.split(",")[2] for line in lines[1:]})


def test_a_budget_of_tokens_reads_the_source_in_order(tiny: Path, texts: Path, tmp_path: Path) -> None:
    assert main(["measure", str(tiny), *options(texts, tmp_path / "out", "--tokens", "150")]) == 0
    [entry] = written(tmp_path / "out")["models"]
    assert 150 - 1 <= entry["tokens"] <= 150
    found = Condensation.load(tmp_path / "out" / "tiny.npz")
    assert set(found.tokens[:-1]) == {POSITIONS}


def test_an_encoder_decoder_is_two_results(texts: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "t5")
    config = transformers.T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    for name in ("config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    assert main(["measure", str(folder), *options(texts, tmp_path / "out")]) == 0
    entries = written(tmp_path / "out")["models"]
    assert [(entry["stack"], entry["file"]) for entry in entries] == [
        ("encoder", "t5-encoder.npz"),
        ("decoder", "t5-decoder.npz"),
    ]


# --- killed, and several processes --------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from decondense import passes
from decondense.cli import main
left = int(sys.argv[1])
save = passes.Progress.save
def die(progress, path):
    save(progress, path)
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
passes.Progress.save = die
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
def test_a_killed_run_goes_on_inside_a_model_and_ends_the_same(tiny: Path, texts: Path, tmp_path: Path) -> None:
    more = ["--samples", "7", "--batch-size", "2", "--metrics", "all"]
    words = ["measure", str(tiny), *options(texts, tmp_path / "out"), *more]
    killed = subprocess.run([sys.executable, "-c", KILLED, "2", *words], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert contents(tmp_path / "out") == [".tiny.rank0.part", "run.json"]
    assert main(words) == 0
    assert main(["measure", str(tiny), *options(texts, tmp_path / "whole"), *more]) == 0
    assert (tmp_path / "out" / "results.json").read_text() == (tmp_path / "whole" / "results.json").read_text()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
def test_two_processes_of_a_launcher_write_the_results_of_one(tiny: Path, texts: Path, tmp_path: Path) -> None:
    more = ["--samples", "7", "--batch-size", "2", "--metrics", "all"]
    words = ["measure", str(tiny), *options(texts, tmp_path / "out"), *more]
    finished = launch(*words)
    assert finished.stdout.count("wrote into") == 1
    assert main(["measure", str(tiny), *options(texts, tmp_path / "whole"), *more]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    two, one = (Condensation.load(tmp_path / name / "tiny.npz") for name in ("out", "whole"))
    numpy.testing.assert_allclose(two.per_text, one.per_text, atol=1e-6)
    numpy.testing.assert_array_equal(two.histogram, one.histogram)
    numpy.testing.assert_array_equal(two.tokens, one.tokens)
