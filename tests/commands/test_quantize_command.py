"""`decondense quantize` from the command line: what it writes, how it goes on, twins by arm, what it says of bad input."""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from outcomes import refusal, results
from saved import POSITIONS, WORDS, save_tiny_model

from decondense.cli import main
from decondense.commands import quantize as command
from decondense.evaluate.intervals import mean_interval

FILES = ["costs.csv", "costs.png", "costs.svg", "results.json", "run.json"]
TRAIN = "--override n_layer=1 n_embd=16 n_head=2 --context 16 --batch-size 2 --vocabulary 300 --device cpu"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = WORDS.split()
    path = tmp_path_factory.mktemp("texts") / "records.jsonl"
    path.write_text("\n".join(json.dumps({"text": " ".join(words[n % 9 :] + words[: n % 9])}) for n in range(60)))
    return path


@pytest.fixture(scope="module")
def twins(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "twins"
    words = ["--steps", "2", "--evaluate-every", "0", "--arms", "cross_entropy", "dispersion", "--seeds", "2"]
    cache = str(tmp_path_factory.mktemp("cache"))
    given = ["--texts", str(texts), "--cache", cache, "--out", str(out), *TRAIN.split(), *words]
    assert main(["train", *given]) == 0
    return out


def options(texts: Path | None, out: Path, *more: str) -> list[str]:
    where = [] if texts is None else ["--texts", str(texts), "--tokens", "200", "--max-length", "20"]
    return [*where, "--out", str(out), "--schemes", "channel,group-asymmetric", "--group-size", "8", *more]


def fail(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    return refusal(capsys, "quantize", *words)


def test_it_writes_a_curve(tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["quantize", str(tiny), *options(texts, out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "group8-asymmetric" in printed.out and "tied weights" in printed.out
    assert "weights: kurtosis" in printed.out and "last hidden state: kurtosis" in printed.out
    assert sorted(path.name for path in out.iterdir()) == FILES
    content = results(out)
    assert content["kind"] == "quantization" and content["provenance"]["torch"]
    given = (
        f"--texts {texts} --tokens 200 --max-length 20 --schemes channel,group-asymmetric --group-size 8 --out {out}"
    )
    assert content["command"] == f"decondense quantize {tiny} {given}"
    [entry] = content["models"]
    assert entry["model"] == str(tiny)
    assert [(row["scheme"], row["bits"]) for row in entry["curve"]] == [
        ("stored", 32),
        *(("channel", bits) for bits in (8, 4, 3, 2)),
        *(("group8-asymmetric", bits) for bits in (8, 4, 3, 2)),
    ]
    for row in entry["curve"]:
        assert {"bits", "scheme", "perplexity", "bits_per_byte", "bytes"} <= set(row)
    assert entry["windows"] == [10, 20]
    assert 0 < entry["quantised_share"] < 1
    assert set(entry["spread"]) == {"weights", "inputs", "hidden_states"}


def test_a_finished_model_is_not_computed_again(
    tiny: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = save_tiny_model(tmp_path / "again")
    compute = command.curve.compute_curve
    names = []

    def once(model, *rest):
        names.append(model.config.name_or_path)
        if len(names) == 2:
            raise KeyboardInterrupt
        return compute(model, *rest)

    monkeypatch.setattr(command.curve, "compute_curve", once)
    words = ["quantize", str(tiny), str(again), *options(texts, tmp_path / "out")]
    assert main(words) == 130
    assert [entry["model"] for entry in results(tmp_path / "out")["models"]] == [str(tiny)]
    assert main(words) == 0
    assert names == [str(tiny), str(again), str(again)]
    one, two = results(tmp_path / "out")["models"]
    assert one["curve"] == two["curve"]  # the same weights


def test_twins_are_evaluated_on_what_they_held_out_and_compared_by_arm(
    twins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(twins), *options(None, tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "mean over seeds" in printed and "cross_entropy" in printed
    content = results(tmp_path / "out")
    assert [(entry["arm"], entry["seed"]) for entry in content["models"]] == [
        ("cross_entropy", 0),
        ("dispersion", 0),
        ("cross_entropy", 1),
        ("dispersion", 1),
    ]
    for entry in content["models"]:
        trained = json.loads((Path(entry["model"]) / "results.json").read_text())
        # float32 sums in batches of another size
        assert entry["curve"][0]["perplexity"] == pytest.approx(trained["perplexity"], rel=1e-5)
        assert entry["curve"][0]["bits_per_byte"] == pytest.approx(trained["bits_per_byte"], rel=1e-5)
        assert not any("when it was trained" in note for note in entry["notes"])
    found = next(
        row for row in content["arms"] if (row["arm"], row["scheme"], row["bits"]) == ("dispersion", "channel", 2)
    )
    lost = {
        (entry["arm"], entry["seed"]): entry["curve"][4]["bits_per_byte"] - entry["curve"][0]["bits_per_byte"]
        for entry in content["models"]
    }
    assert found["cost"]["mean"] == pytest.approx((lost["dispersion", 0] + lost["dispersion", 1]) / 2)
    expected = mean_interval([lost["dispersion", seed] - lost["cross_entropy", seed] for seed in (0, 1)])
    assert found["difference"]["high"] == pytest.approx(expected.high)
    assert {row["arm"] for row in content["arms_spread"]} == {"cross_entropy", "dispersion"}


def test_a_run_whose_numbers_do_not_come_again_is_told(
    twins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = twins / "dispersion-seed0" / "results.json"
    stored = path.read_text()
    path.write_text(json.dumps({**json.loads(stored), "perplexity": 5.0}))
    try:
        assert main(["quantize", str(path.parent), *options(None, tmp_path / "out")]) == 0
    finally:
        path.write_text(stored)
    assert "perplexity was 5.00 when it was trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bits", "1"], "--bits 1: weights are rounded to 2 to 8 bits"),
        (["--bits", "4", "16"], "--bits 16"),
        (["--bits", "4", "4"], "--bits 4,4: give at least one, and each once"),
        (["--group-size", "-3"], "--group-size -3: give the weights that share a scale"),
        (["--group-size", "0"], "--group-size 0: groups need a size"),
        (["--schemes", "chanel"], "did you mean 'channel'?"),
        (["--schemes", ""], "--schemes : give at least one"),
        (["--tokens", "10"], "--tokens 10 --max-length 20: a window needs"),
        (["--max-length", "65"], f"--max-length 65: the model has {POSITIONS} positions"),
        (["--max-length", "64", "--tokens", "90000", "--texts", "SHORT"], "one window needs 64: give more text"),
        (["--texts", "nowhere.txt"], "no such file or folder"),
        (["--dtype", "int8"], "--dtype 'int8' is not known"),
        (["--formats", "gif"], "--formats 'gif' is not known"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    words: list[str], message: str, tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("the dog")
    given = [str(short) if word == "SHORT" else word for word in words]
    assert message in fail(capsys, tiny, *options(texts, tmp_path / "out"), *given)
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be(tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = options(texts, tmp_path / "out")
    assert "no MODEL was given" in fail(capsys, *more)
    assert "was given twice" in fail(capsys, tiny, tiny, *more)
    assert "no such folder" in fail(capsys, tmp_path / "nowhere", *more)
    encoder = tmp_path / "encoder"
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(encoder)
    transformers.AutoTokenizer.from_pretrained(tiny).save_pretrained(encoder)
    capsys.readouterr()
    assert "perplexity is that of a causal language model" in fail(capsys, encoder, *more)


def test_two_runs_of_one_arm_and_seed_are_refused(
    twins: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(twins / "dispersion-seed0", tmp_path / "copy")
    line = fail(capsys, twins / "dispersion-seed0", copy, *options(None, tmp_path / "out"))
    assert "are both arm dispersion, seed 0" in line


def test_other_options_in_the_same_folder_are_refused(
    tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(tiny), *options(texts, tmp_path / "out", "--bits", "8")]) == 0
    capsys.readouterr()
    assert "holds another run (bits [8] there, [4] now)" in fail(
        capsys, tiny, *options(texts, tmp_path / "out", "--bits", "4")
    )
