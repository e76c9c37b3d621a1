"""Pure numbers: what fits, how long a step takes, what a trial is. Knows no torch, no Lightning, no Optuna."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
