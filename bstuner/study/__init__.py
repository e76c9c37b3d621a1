"""The Optuna study: what to try next, when to stop, what to keep. Knows a trial runner, and no Lightning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
