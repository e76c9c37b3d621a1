"""The settings that a tuned fit changes beside the batch: learning rate, and what counts in steps."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
