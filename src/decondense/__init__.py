"""See whether a language model's embeddings have collapsed, and train the collapse away.

Each name is imported when it is first asked for: the command line's help costs no torch, the losses no numpy.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decondense.attach import Attachment, attach
    from decondense.condensation import Condensation
    from decondense.errors import UserError
    from decondense.losses.module import DispersionLoss
    from decondense.losses.pairs import Moments, Partition, Subset
    from decondense.measure import measure

__version__ = "0.1.0"

__all__ = [
    "Attachment",
    "Condensation",
    "DispersionLoss",
    "Moments",
    "Partition",
    "Subset",
    "UserError",
    "attach",
    "measure",
]

_HOMES = {
    "Attachment": "attach",
    "Condensation": "condensation",
    "DispersionLoss": "losses.module",
    "Moments": "losses.pairs",
    "Partition": "losses.pairs",
    "Subset": "losses.pairs",
    "UserError": "errors",
    "attach": "attach",
    "measure": "measure",
}


class _Package(ModuleType):
    """A package whose public names are found when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Importing decondense.attach would put the module where the function of its name is looked for.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
