"""A folder of small benchmarks in the layouts of the data sets' own files, for tests. Knows no test."""

import json
from pathlib import Path
from typing import Any

PARADIGMS = ("wh_island", "adjunct_island")


def rows(count: int, **fields: str) -> list[dict[str, Any]]:
    """`count` rows whose fields have the row's number in place of {}."""
    return [{name: text.format(number) for name, text in fields.items()} for number in range(count)]


def jsonl(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def write_benchmarks(folder: Path) -> Path:
    """Two paradigms of BLiMP, LAMBADA, PIQA (both splits), ARC-Easy as prompts, and a text."""
    for paradigm in PARADIGMS:
        jsonl(
            folder / "blimp" / f"{paradigm}.jsonl",
            rows(6, sentence_good="the dog number {} sleeps", sentence_bad="the dog sleep {} number"),
        )
    jsonl(folder / "lambada_openai" / "test.jsonl", rows(5, text="the quick fox number {} jumps over the lazy dog"))
    for split, count in (("train", 4), ("valid", 6)):
        jsonl(
            folder / "piqa" / f"{split}.jsonl",
            rows(count, goal="wake dog {}", sol1="the fox jumps over it", sol2="the dog sleeps on"),
        )
        (folder / "piqa" / f"{split}-labels.lst").write_text("".join(f"{number % 2}\n" for number in range(count)))
    prompt = "Please choose the correct answer to the question: who is {}?\n\nAnswer1: the fox Answer2: the dog\n\nAnswer format: answer1/answer2"
    items = [{"instruction": prompt.format(number), "answer": f"answer{number % 2 + 1}"} for number in range(5)]
    (folder / "arc-easy").mkdir()
    (folder / "arc-easy" / "test.json").write_text(json.dumps(items, indent=1))
    (folder / "texts" / "wikitext2").mkdir(parents=True)
    articles = [
        f" = Dog {number} = \n\n The quick dog sleeps . \n = = Life = = \n It sleeps on . \n" for number in range(3)
    ]
    (folder / "texts" / "wikitext2" / "test.txt").write_text("".join(articles))
    (folder / "texts" / "wikitext2" / "valid.txt").write_text("never read\n")
    return folder
