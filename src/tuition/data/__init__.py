"""What is asked about: pools of raw inputs, their sources, selection, transfer sets, and augmentation in batches."""

from tuition.data.augment import Crop
from tuition.data.nearness import nearness
from tuition.data.pool import Pool, from_tensors
from tuition.data.select import select
from tuition.data.sources import load
from tuition.data.thumbnails import contact_sheet
from tuition.data.transfer import Accounts, Bill, Refusal, TransferSet

__all__ = [
    "Accounts",
    "Bill",
    "Crop",
    "Pool",
    "Refusal",
    "TransferSet",
    "contact_sheet",
    "from_tensors",
    "load",
    "nearness",
    "select",
]
