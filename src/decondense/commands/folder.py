"""The folder of a run over models in; what is finished there, and results written, out. Knows no measurement.

`results.json` is `{"kind", "version", "config", "models": [{"model", ...}]}`, written anew after each model, so that it
always tells what is finished; the folder's `run.json` tells whose run it is (`decondense.files.claim_folder`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decondense import __version__
from decondense.errors import UserError
from decondense.files import RECORD, RESULTS, claim_folder, read_json, write_json


@contextmanager
def claimed(folder: Path, kind: str, config: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder and claim it for this run; where the block fails with nothing finished, no trace is left.

    Raises `UserError` where the folder cannot be written to or belongs to something else.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    ours = False
    try:
        claim_folder(folder, {"kind": kind, "version": __version__, **config})
        ours = True
        yield
    except BaseException:
        if ours and [entry.name for entry in folder.iterdir()] == [RECORD]:
            (folder / RECORD).unlink()
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()
        raise


def read_finished(folder: Path) -> list[dict[str, Any]]:
    """The entries of "models" in the folder's results; none where there are no results yet."""
    path = folder / RESULTS
    if not path.is_file():
        return []
    mend = "give another --out, or remove it to measure all again"
    try:
        entries: list[dict[str, Any]] = read_json(path, mend)["models"]
        if not all(isinstance(entry["model"], str) for entry in entries):
            raise TypeError
    except (LookupError, TypeError) as error:
        raise UserError(f"{path} is damaged: {mend}") from error
    return entries


def write_results(
    folder: Path, kind: str, config: Mapping[str, Any], finished: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """Write the results of the models that are finished, and what else there is to say of them all."""
    content = {"kind": kind, "version": __version__, "config": dict(config), "models": list(finished), **more}
    write_json(folder / RESULTS, content)
