"""Every error bstuner raises on purpose, named by the event.

BstunerError
├── InvalidSetting          an argument is out of range or unreadable (also a ValueError)
├── NothingFits             not even the smallest batch runs within the memory
├── StoredSizeTooLarge      the batch size in a checkpoint does not fit this device
├── BatchSizeNotSettable    no attribute and no loader through which the batch size can change
├── LearningRateNotSettable no optimizer, or none whose learning rate can be changed
├── EmptyDataset            there is no sample to probe with
├── NoStepTaken             the model ran, but its optimizer never stepped
├── SettingRefused          a Trainer setting contradicts the batch size that was found
├── MonitorMissing          validation does not log the metric to tune by
├── LayoutImpossible        no micro-batch and accumulation make the global batch size that is wanted
├── UnsupportedStrategy     the Trainer, or its strategy, is of a kind that is not supported
├── BaselineFailed          the user's own settings, which set the bar for a search, could not be trained with
├── PeerError               another process of the run failed, for a reason that is not memory
├── PeerLost                another process of the run ended, or no longer answers
├── PeersDiverged           the processes of the run do not run the same steps
├── StorageUnusable         the storage of a study cannot be reached, read or written
├── StudyMismatch           a study of that name exists, made on another device or for other settings
├── StudyMissing            there is no study of that name, or none at all
└── ScriptError             a script run by the command line did not do what the command needs
"""

from __future__ import annotations

__all__ = [
    "BaselineFailed",
    "BatchSizeNotSettable",
    "BstunerError",
    "EmptyDataset",
    "InvalidSetting",
    "LayoutImpossible",
    "LearningRateNotSettable",
    "MonitorMissing",
    "NoStepTaken",
    "NothingFits",
    "PeerError",
    "PeerLost",
    "PeersDiverged",
    "ScriptError",
    "SettingRefused",
    "StorageUnusable",
    "StoredSizeTooLarge",
    "StudyMismatch",
    "StudyMissing",
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


class LearningRateNotSettable(BstunerError):
    """There is no optimizer, or none whose learning rate is a number that can be changed."""


class EmptyDataset(BstunerError):
    """There is no sample to probe with."""


class NoStepTaken(BstunerError):
    """The model ran, but its optimizer never took a step."""


class SettingRefused(BstunerError):
    """A setting of the Trainer contradicts the batch size that was found."""


class MonitorMissing(BstunerError):
    """Validation does not log the metric that batch size and learning rate are to be tuned by."""


class LayoutImpossible(BstunerError):
    """No micro-batch and accumulation make the global batch size that is wanted."""


class UnsupportedStrategy(BstunerError):
    """The Trainer, or its strategy, is of a kind that is not supported."""


class BaselineFailed(BstunerError):
    """The user's own settings, which set the bar for a search, could not be trained with."""


class PeerError(BstunerError):
    """Another process of the run failed, for a reason that is not memory."""


class PeerLost(BstunerError):
    """Another process of the run ended, or no longer answers."""


class PeersDiverged(BstunerError):
    """The processes of the run do not run the same steps."""


class StorageUnusable(BstunerError):
    """The storage of a study cannot be reached, read or written."""


class StudyMismatch(BstunerError):
    """A study of that name exists, made on another device or for other settings."""


class StudyMissing(BstunerError):
    """There is no study of that name, or none that bstuner made."""


class ScriptError(BstunerError):
    """A script run by the command line did not do what the command needs."""
