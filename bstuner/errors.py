"""Every error bstuner raises on purpose, named by the event.

BstunerError
├── InvalidSetting          an argument is out of range or unreadable (also a ValueError)
├── NothingFits             not even the smallest batch runs within the memory
├── StoredSizeTooLarge      the batch size in a checkpoint does not fit this device
├── BatchSizeNotSettable    no attribute and no loader through which the batch size can change
├── EmptyDataset            there is no sample to probe with
├── NoStepTaken             the model ran, but its optimizer never stepped
├── SettingRefused          a Trainer setting contradicts the batch size that was found
├── LayoutImpossible        no micro-batch and accumulation make the global batch size that is wanted
├── UnsupportedStrategy     the Trainer, or its strategy, is of a kind that is not supported
├── PeerError               another process of the run failed, for a reason that is not memory
├── PeerLost                another process of the run ended, or no longer answers
├── PeersDiverged           the processes of the run do not run the same steps
└── ScriptError             a script run by the command line did not do what the command needs
"""

from __future__ import annotations

__all__ = [
    "BatchSizeNotSettable",
    "BstunerError",
    "EmptyDataset",
    "InvalidSetting",
    "LayoutImpossible",
    "NoStepTaken",
    "NothingFits",
    "PeerError",
    "PeerLost",
    "PeersDiverged",
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


class LayoutImpossible(BstunerError):
    """No micro-batch and accumulation make the global batch size that is wanted."""


class UnsupportedStrategy(BstunerError):
    """The Trainer, or its strategy, is of a kind that is not supported."""


class PeerError(BstunerError):
    """Another process of the run failed, for a reason that is not memory."""


class PeerLost(BstunerError):
    """Another process of the run ended, or no longer answers."""


class PeersDiverged(BstunerError):
    """The processes of the run do not run the same steps."""


class ScriptError(BstunerError):
    """A script run by the command line did not do what the command needs."""
