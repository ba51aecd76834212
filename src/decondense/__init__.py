"""See whether a language model's embeddings have collapsed, and train the collapse away.

`DispersionLoss` and `attach` need torch alone; `measure` and `Condensation` are imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decondense.attach import Attachment, attach
from decondense.errors import UserError
from decondense.losses.module import DispersionLoss
from decondense.losses.pairs import Partition, Subset

if TYPE_CHECKING:
    from decondense.condensation import Condensation
    from decondense.measure import measure

__version__ = "0.1.0"

__all__ = ["Attachment", "Condensation", "DispersionLoss", "Partition", "Subset", "UserError", "attach", "measure"]


def __getattr__(name: str) -> Any:
    if name == "Condensation":
        from decondense.condensation import Condensation

        return Condensation
    if name == "measure":
        from decondense.measure import measure

        return measure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
