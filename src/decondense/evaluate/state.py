"""What a score depends on in, the score if it was computed before out: one file a model and task, so that nothing finished runs again.

Knows no benchmark. A file is written when its task is finished, its samples first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from decondense.files import replace_file, write_json

# All that decides what a model answers; a run's logs beside them do not.
_OF_A_MODEL = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)


def digest_model(folder: Path) -> str:
    """16 digits that change with the weights, the configuration or the tokenizer in a folder."""
    hashed = hashlib.sha256()
    for path in sorted({path for pattern in _OF_A_MODEL for path in folder.glob(pattern) if path.is_file()}):
        hashed.update(path.name.encode())
        with path.open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()[:16]


class State:
    """The finished tasks of one model, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, task: str, key: Mapping[str, Any], samples: bool) -> dict[str, Any] | None:
        """The entry of a task that was finished under the same key; None where it is to be run. A damaged file counts as none."""
        try:
            content = json.loads(self._file(task, ".json").read_text(encoding="utf-8"))
            if content["key"] == json.loads(json.dumps(key)) and (not samples or self.samples_file(task).is_file()):
                return dict(content["entry"])
        except (OSError, ValueError, LookupError, TypeError):
            pass
        return None

    def write(
        self, task: str, key: Mapping[str, Any], entry: Mapping[str, Any], samples: Sequence[Mapping[str, Any]] | None
    ) -> None:
        """Keep the entry of a finished task, and the samples where they are wanted, a line each."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file(task, ".json").unlink(missing_ok=True)
        if samples is not None:
            with replace_file(self.samples_file(task)) as temporary, temporary.open("w", encoding="utf-8") as file:
                for sample in samples:
                    file.write(json.dumps({"task": task, **sample}, ensure_ascii=False, default=str) + "\n")
        else:
            self.samples_file(task).unlink(missing_ok=True)
        write_json(self._file(task, ".json"), {"key": key, "entry": entry})

    def samples_file(self, task: str) -> Path:
        """Where the samples of a task are."""
        return self._file(task, ".jsonl")

    def join_samples(self, tasks: Sequence[str], target: Path) -> None:
        """Write the samples of all `tasks` into one file."""
        with replace_file(target) as temporary, temporary.open("wb") as file:
            for chunk in self._chunks(tasks):
                file.write(chunk)

    def _chunks(self, tasks: Sequence[str]) -> Iterator[bytes]:
        for task in tasks:
            with self.samples_file(task).open("rb") as file:
                while chunk := file.read(2**20):
                    yield chunk

    def _file(self, task: str, suffix: str) -> Path:
        """A name that any file system takes; two tasks whose names differ in other signs alone are told apart by a digest."""
        safe = "".join(one if one.isalnum() or one in "_-" else "-" for one in task)
        if safe != task:
            safe += "-" + hashlib.sha256(task.encode()).hexdigest()[:6]
        return self.folder / (safe + suffix)
