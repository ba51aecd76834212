"""Scores are those of lm-eval's own command, to the last digit; what the model's context cuts is counted."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
import lm_eval.tasks
from lm_eval.models.huggingface import HFLM
from saved import POSITIONS, save_tiny_model
from small_benchmarks import write_benchmarks

from decondense import models
from decondense.errors import UserError
from decondense.evaluate.run_task import aggregate, run_task
from decondense.evaluate.scoring import Scorer
from decondense.evaluate.tasks import load_tasks

BATCH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return models.load(str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))


def hub_rows(benchmarks: Path, task: str) -> tuple[str, str, list[dict[str, Any]]]:
    """lm-eval's configuration, the split, and the rows of a task as the hub has them, made from the files without our code."""
    if task.startswith("blimp_"):
        import gzip

        content = gzip.decompress((benchmarks / "blimp" / f"{task[6:]}.jsonl.gz").read_bytes()).decode()
        return f"blimp/{task[6:]}.yaml", "train", [json.loads(line) for line in content.splitlines()]
    if task == "lambada_openai":
        content = (benchmarks / task / "lambada_test.jsonl").read_text()
        return "lambada/lambada_openai.yaml", "test", [json.loads(line) for line in content.splitlines()]
    if task == "piqa":
        content, labels = ((benchmarks / task / name).read_text() for name in ("valid.jsonl", "valid-labels.lst"))
        pairs = zip(content.splitlines(), labels.split(), strict=True)
        return "piqa/piqa.yaml", "validation", [{**json.loads(line), "label": int(label)} for line, label in pairs]
    found = []
    for item in json.loads((benchmarks / "arc-easy" / "test.json").read_text()):
        question, listed, _ = item["instruction"].split(": ", 1)[1].split("\n\n")
        answers = []
        for number in range(9, 0, -1):
            before, mark, answer = listed.partition(f"Answer{number}: ")
            if mark:
                answers.insert(0, answer.removesuffix(" "))
                listed = before
        found.append(
            {
                "question": question,
                "choices": {"text": answers, "label": list("ABCDE"[: len(answers)])},
                "answerKey": "ABCDE"[int(item["answer"][-1]) - 1],
            }
        )
    return "arc/arc_easy.yaml", "test", found


def lm_evals_own(model: Path, benchmarks: Path, task: str, limit: int, folder: Path) -> dict[str, Any]:
    """What lm-eval gives with its own model class, its own loading of models and of data sets."""
    config, split, rows = hub_rows(benchmarks, task)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = {
        "training_split": None,
        "validation_split": None,
        "test_split": None,
        ("test_split" if split == "test" else "validation_split"): split,
    }
    own = {
        "include": str(Path(lm_eval.tasks.__file__).parent / config),
        "task": f"local_{task}",
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
        **splits,
    }
    (folder / "local.yaml").write_text(json.dumps(own))
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lm_eval.simple_evaluate(
            "hf",
            {"pretrained": str(model)},
            tasks=[f"local_{task}"],
            task_manager=manager,
            batch_size=BATCH,
            device="cpu",
            limit=limit,
            bootstrap_iters=1000,
        )
    return dict(found["results"][f"local_{task}"])


@pytest.mark.parametrize(
    "task", ["blimp_adjunct_island", "blimp_wh_island", "blimp_npi_present_1", "lambada_openai", "piqa", "arc_easy"]
)
def test_scores_are_those_of_lm_evals_own_command(
    stories260K: Path, data: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # lm-eval resamples in processes unless told otherwise
    expected = lm_evals_own(stories260K, data / "benchmarks", task, 24, tmp_path)
    loaded = load_tasks({task: None}, data / "benchmarks")
    entry = run_task(Scorer(*models.load(str(stories260K)), BATCH), loaded, task, 24, bootstrap=1000).entry
    assert entry["samples"] == expected["sample_len"] == 24
    assert set(entry["metrics"]) == {
        name.removesuffix(",none") for name in expected if name.endswith(",none") and "_stderr" not in name
    }
    for metric, scores in entry["metrics"].items():
        assert scores == {"value": expected[f"{metric},none"], "stderr": expected[f"{metric}_stderr,none"]}


def test_the_standard_error_of_a_perplexity_by_formula_is_near_that_of_resampling(
    tiny: tuple[Any, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    loaded = load_tasks({"lambada_openai": None}, folder)
    scorer = Scorer(*tiny, BATCH)
    formula, resampled = (
        run_task(scorer, loaded, "lambada_openai", None, count).entry["metrics"]["perplexity"] for count in (0, 4000)
    )
    assert formula["value"] == resampled["value"]
    # Resampling n items gives a variance that is smaller by (n - 1) / n, n = 5; 4,000 resamples leave 1.1 % of chance.
    assert formula["stderr"] * math.sqrt(4 / 5) == pytest.approx(resampled["stderr"], rel=0.05)


def test_the_batch_size_that_is_found_changes_no_more_than_the_order_of_sums(
    tiny: tuple[Any, Any], folder: Path
) -> None:
    loaded = load_tasks({"piqa": 0}, folder)
    fixed = run_task(Scorer(*tiny, 1), loaded, "piqa", None)
    found = run_task(Scorer(*tiny, None), loaded, "piqa", None)
    assert 1 <= found.entry["batch_size"] <= 12
    assert found.entry["metrics"] == fixed.entry["metrics"]
    for one, other in zip(fixed.samples, found.samples, strict=True):
        # Sums of about ten float32 logarithms.
        assert [answer[0] for answer in one["filtered_resps"]] == pytest.approx(
            [answer[0] for answer in other["filtered_resps"]], rel=1e-5
        )


def test_the_fastest_of_the_sizes_that_fit_is_found_once(
    tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def seconds(best: int) -> Any:
        def of_a_sequence(self: Any, size: int, length: int) -> float:
            tried.append(size)
            return abs(math.log(size / best)) + 1.0

        return of_a_sequence

    for best, path in ((64, [16, 64]), (16, [16, 64, 4]), (1, [16, 64, 4, 1])):
        monkeypatch.setattr(Scorer, "_time", seconds(best))
        scorer = Scorer(*tiny, None)
        assert scorer.find_batch_size(32, 10_000) == best
        assert scorer.find_batch_size(32, 10_000) == best
        assert tried == path
        assert scorer.find_batch_size(64, 10) == 16
        tried.clear()
    monkeypatch.setattr("decondense.evaluate.scoring.LOGIT_BYTES_ON_CPU", 3 * 32 * 298 * 4)
    assert Scorer(*tiny, None).find_batch_size(32, 10) == 3


def test_a_second_model_sees_the_same_examples(tiny: tuple[Any, Any], folder: Path) -> None:
    loaded = load_tasks({"piqa": 2}, folder)
    first, second = (run_task(Scorer(*tiny, BATCH), loaded, "piqa", None).samples for _ in range(2))
    assert [one["arguments"] for one in first] == [one["arguments"] for one in second]


def test_a_group_is_the_mean_of_its_tasks(tiny: tuple[Any, Any], folder: Path) -> None:
    loaded = load_tasks({"blimp": None}, folder)
    entries = {name: run_task(Scorer(*tiny, BATCH), loaded, name, None).entry for name in loaded.tasks}
    whole = aggregate(loaded, "blimp", entries)
    assert whole is not None
    values = [entry["metrics"]["acc"]["value"] for entry in entries.values()]
    stderrs = [entry["metrics"]["acc"]["stderr"] for entry in entries.values()]
    assert whole["metrics"]["acc"]["value"] == pytest.approx(sum(values) / 2, abs=1e-15)
    assert whole["metrics"]["acc"]["stderr"] == pytest.approx(math.hypot(*stderrs) / 2, abs=1e-15)
    assert (whole["samples"], whole["of"], len(whole["tasks"])) == (12, 67, 2)
    assert aggregate(loaded, "blimp", {}) is None


def request(context: str, continuation: str) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(
        request_type="loglikelihood", doc={}, arguments=(context, continuation), idx=0, metadata=("task", 0, 1)
    )


def test_what_the_context_cuts_is_counted_and_scored_as_lm_eval_does(tiny: tuple[Any, Any]) -> None:
    requests = [request("the fox " * 60, "jumps over"), request("the fox", " jumps")]
    scorer = Scorer(*tiny, BATCH)
    answers = scorer.loglikelihood(requests)
    assert (scorer.requests, scorer.truncated, scorer.rolled) == (2, 1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert answers == HFLM(tiny[0], tokenizer=tiny[1], batch_size=BATCH).loglikelihood(requests, disable_tqdm=True)


def test_an_answer_that_is_longer_than_the_context_is_scored_token_by_token(tiny: tuple[Any, Any]) -> None:
    """lm-eval stops at such a request; here each token is scored once, after half a context or more of those before it."""
    import torch

    model, tokenizer = tiny
    context, answer = "the fox", " jumps over the lazy dog" * 20
    scorer = Scorer(model, tokenizer, BATCH)
    [(likelihood, greedy)] = scorer.loglikelihood([request(context, answer)])
    assert (scorer.truncated, scorer.rolled, greedy) == (1, 1, False)
    start = len(tokenizer(context)["input_ids"])
    tokens = tokenizer(context + answer)["input_ids"]
    expected, half = 0.0, POSITIONS // 2
    for place in range(start, len(tokens)):
        stop = min(
            start + (place - start) // half * half + half, len(tokens)
        )  # the end of the piece that the token is in
        given = torch.tensor([tokens[max(0, stop - 1 - POSITIONS) : place]])
        with torch.no_grad():
            expected += model(given).logits[0, -1].log_softmax(-1)[tokens[place]].item()
    assert likelihood == pytest.approx(expected, rel=1e-5)


def test_a_model_without_a_head_is_refused() -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(UserError, match="BertModel has no head that predicts the next token"):
        Scorer(transformers.BertModel(config), None, BATCH)


def test_a_model_that_gives_nan_has_no_score(folder: Path, tmp_path: Path) -> None:
    import torch

    from decondense.evaluate.perplexity import by_document

    model, tokenizer = models.load(str(save_tiny_model(tmp_path / "tiny")))
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = math.nan
    with pytest.raises(UserError, match="--tasks piqa: the model gives NaN"):
        run_task(Scorer(model, tokenizer, BATCH), load_tasks({"piqa": 0}, folder), "piqa", None)
    with pytest.raises(UserError, match="the model gives NaN"):
        by_document(model, tokenizer, ["the dog sleeps"])


def test_text_that_is_written_is_scored_and_its_prompts_that_are_cut_are_counted(
    tiny: tuple[Any, Any], tmp_path: Path
) -> None:
    (tmp_path / "triviaqa").mkdir()
    answer = {"aliases": ["dog"], "value": "dog", "normalized_aliases": ["dog"]}
    rows = [
        {"question": text, "question_id": "1", "answer": answer}
        for text in ("who sleeps?", "who jumps over the lazy dog? " * 20)
    ]
    for split in ("train", "validation"):
        (tmp_path / "triviaqa" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_tasks({"triviaqa": 0}, tmp_path)
    with pytest.raises(UserError, match="--tasks triviaqa: lm-eval refuses: .*256.* must be less than"):
        run_task(Scorer(*tiny, BATCH), loaded, "triviaqa", None)
    loaded.tasks["triviaqa"].set_config("generation_kwargs", {"max_gen_toks": 8}, update=True)
    entry = run_task(Scorer(*tiny, BATCH), loaded, "triviaqa", None).entry
    assert entry["metrics"]["exact_match/remove_whitespace"]["value"] == 0
    assert (entry["requests"], entry["truncated"]) == (2, 1)
