"""A name and a number of steps in, a bar on standard error out, while that is a terminal. Knows nothing of the work that it shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decondense.errors import require


class Progress:
    """How far a piece of work is; shows nothing where nobody looks on."""

    def __init__(self, name: str, unit: str, total: int | None = None, shown: bool = True, **look: Any) -> None:
        """Begin at 0 of `total` units; `look` is how the bar looks, in tqdm's words."""
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            self._bar = require("tqdm", extra="hf").tqdm(total=total, desc=name, unit=unit, **look)

    def add(self, count: int = 1) -> None:
        """So many units more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def reach(self, count: int) -> None:
        """So many units are done in all."""
        if self._bar is not None:
            self._bar.update(count - self._bar.n)

    def say(self, line: str) -> None:
        """Print a line on standard output, above the bar where there is one."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def close(self) -> None:
        """Show no more."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress_bar(name: str, unit: str, total: int | None = None, shown: bool = True, **look: Any) -> Iterator[Progress]:
    """Give a `Progress` for the block."""
    found = Progress(name, unit, total, shown, **look)
    try:
        yield found
    finally:
        found.close()
