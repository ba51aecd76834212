"""See whether a language model's embeddings have collapsed, and train the collapse away.

Importing this needs torch alone. What measuring needs besides (numpy, scipy) is imported when it is first used.
"""

from decondense.attach import Attachment, attach
from decondense.condensation import Condensation
from decondense.errors import UserError
from decondense.losses.module import DispersionLoss
from decondense.losses.pairs import Moments, Partition, Subset
from decondense.measure import measure

__version__ = "0.1.0"

__all__ = ["Attachment", "Condensation", "DispersionLoss", "Moments", "Partition", "Subset", "UserError", "attach", "measure"]
