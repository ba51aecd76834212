"""Paths in, whole files out: everything is written to a temporary name in the same folder and renamed, so no reader sees half a file."""

from __future__ import annotations

import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decondense.errors import UserError

RECORD = "run.json"
"""What in the folder of a run tells whose run it is."""

RESULTS = "results.json"
"""What in the folder of a run has its numbers; written last, where a run has one moment at which it is finished."""


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` when the block ends well and is removed when it does not."""
    target = Path(path)
    # The suffix is kept at the end: writers such as numpy and matplotlib choose their format by it.
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, all of it or nothing."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """Arrays and floats as JSON holds them: lists and numbers, None in place of NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    return [plain(entry) for entry in (value if isinstance(value, list) else value.tolist())]


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as JSON to `path`, all of it or nothing. NaN and infinity are no JSON and raise ValueError."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], mend: str) -> Any:
    """What a file of JSON holds; `UserError` says that it is damaged, and `mend`, where it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {mend}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {mend}") from error


def prepare_folder(path: str | os.PathLike[str]) -> Path:
    """Create the folder `path` where it is absent; raise `UserError` where that, or writing into it, is not possible."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); give --out a folder that is writable"
        ) from error
    return folder


def claim_folder(path: str | os.PathLike[str], configuration: dict[str, Any]) -> Path:
    """Prepare the folder of a run and record its configuration there (`run.json`); the same run may come back and go on.

    Raises:
        UserError: the folder is not writable, belongs to a run of another configuration, or holds files of something else.
    """
    folder = Path(path)
    record = folder / RECORD
    configuration = json.loads(json.dumps(configuration))
    if record.exists():
        try:
            earlier = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            earlier = {}
        names = sorted({*earlier, *configuration})
        changed = [
            f"{name} {earlier.get(name)!r} there, {configuration.get(name)!r} now"
            for name in names
            if earlier.get(name) != configuration.get(name)
        ]
        if changed:
            raise UserError(
                f"{folder}: holds another run ({'; '.join(changed[:3])}); give another --out, or remove the folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty and holds no run of decondense; give another --out")
    prepare_folder(folder)
    write_json(record, configuration)
    return folder
