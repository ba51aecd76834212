"""The options of a run in, the command that makes it again out. Knows no command's options."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

_NOTHING: Mapping[str, Any] = {}


def command_line(
    words: Sequence[str], options: Mapping[str, Any], usual: Mapping[str, Any] = _NOTHING, by_name: Collection[str] = ()
) -> str:
    """The words, then every option that differs from its usual value (None where `usual` has none), as a shell takes them.

    Args:
        words: the command and its positional arguments.
        options: by name, with underscores.
        usual: their defaults.
        by_name: options that are paths of which the name alone is told, the folder being one of this machine.

    >>> command_line(["saw", "my plank"], {"how_long": (2, 3), "dry_run": True, "seed": 0}, {"seed": 0})
    "saw 'my plank' --how-long 2 3 --dry-run"
    """
    written = list(words)
    for name, value in options.items():
        parts, before = _parts(value), _parts(usual.get(name))
        if parts != before:
            option = name.replace("_", "-")
            if isinstance(value, bool):
                written.append(f"--{option}" if value else f"--no-{option}")
            else:
                written += [f"--{option}", *(Path(part).name if name in by_name else str(part) for part in parts)]
    return shlex.join(written)


def command_of(config: Any, name: str, leave_out: Collection[str] = (), by_name: Collection[str] = ()) -> str:
    """`decondense NAME` with the options of its configuration, a dataclass; a first field without a default is what stands before the options.

    Args:
        config: of the command.
        name: of the command.
        leave_out: options that change no number of the results.
        by_name: as in `command_line`.
    """
    first, *rest = dataclasses.fields(config)
    before: list[Any] = []
    if first.default is dataclasses.MISSING:
        before = _parts(getattr(config, first.name))
    else:
        rest = [first, *rest]
    return command_line(
        ["decondense", name, *map(str, before)],
        {field.name: getattr(config, field.name) for field in rest if field.name not in leave_out},
        {field.name: field.default for field in rest},
        by_name,
    )


def _parts(value: Any) -> list[Any]:
    """A tuple, or the list that JSON made of it, as a list; any other value in one."""
    return list(value) if isinstance(value, list | tuple) else [value]
