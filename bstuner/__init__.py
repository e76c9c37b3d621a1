"""Find the batch size, and the learning rate with it, for PyTorch Lightning."""

from bstuner.api import find
from bstuner.callbacks.finder import BatchSizeFinder
from bstuner.core.result import FindResult, Probe
from bstuner.errors import BstunerError

__all__ = ["BatchSizeFinder", "BstunerError", "FindResult", "Probe", "find"]
