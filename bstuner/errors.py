"""Every error bstuner raises on purpose, named by the event.

BstunerError
├── InvalidSetting          an argument is out of range or unreadable (also a ValueError)
├── NothingFits             not even the smallest batch runs within the memory
├── StoredSizeTooLarge      the batch size in a checkpoint does not fit this device
├── BatchSizeNotSettable    no attribute and no loader through which the batch size can change
├── EmptyDataset            there is no sample to probe with
├── NoStepTaken             the model ran, but its optimizer never stepped
├── SettingRefused          a Trainer setting contradicts the batch size that was found
├── UnsupportedStrategy     the Trainer's strategy is not supported yet
└── ScriptError             a script run by the command line did not do what the command needs
"""

from __future__ import annotations

__all__ = [
    "BatchSizeNotSettable",
    "BstunerError",
    "EmptyDataset",
    "InvalidSetting",
    "NoStepTaken",
    "NothingFits",
    "ScriptError",
    "SettingRefused",
    "StoredSizeTooLarge",
    "UnsupportedStrategy",
]


class BstunerError(Exception):
    """The base of every error that bstuner raises on purpose."""


class InvalidSetting(BstunerError, ValueError):
    """An argument is out of range or cannot be read."""


class NothingFits(BstunerError):
    """Not even the smallest batch runs within the memory."""


class StoredSizeTooLarge(BstunerError):
    """The batch size stored in a checkpoint does not fit this device."""


class BatchSizeNotSettable(BstunerError):
    """There is no attribute and no loader through which the batch size can be changed."""


class EmptyDataset(BstunerError):
    """There is no sample to probe with."""


class NoStepTaken(BstunerError):
    """The model ran, but its optimizer never took a step."""


class SettingRefused(BstunerError):
    """A setting of the Trainer contradicts the batch size that was found."""


class UnsupportedStrategy(BstunerError):
    """The Trainer's strategy is not supported yet."""


class ScriptError(BstunerError):
    """A script run by the command line did not do what the command needs."""
