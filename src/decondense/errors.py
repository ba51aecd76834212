"""Errors that their reader can mend: one line that says what was given, what is wrong and what would work."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType


class UserError(ValueError):
    """Input that its giver can mend. The message is one line; the command line prints it and exits with 2."""


class MissingExtra(UserError, ImportError):
    """A part of decondense was asked for whose packages are not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtra` that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtra(
            f"{module.split('.')[0]} is not installed: pip install 'decondense[{extra}]' brings it"
        ) from error


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` where it is one of `known`; otherwise raise a `UserError` that suggests the nearest."""
    names = list(known)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"{kind} {name!r} is not known: {hint}known are {', '.join(names)}")


def option(name: str) -> str:
    """An attribute of a configuration as the command line has it.

    >>> option("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def check_least(options: object, least: Mapping[str, int]) -> None:
    """Raise `UserError` where an attribute of `options` is below the value given for it; one that is None was left out."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise UserError(f"{option(name)} {value}: must be at least {smallest}")
