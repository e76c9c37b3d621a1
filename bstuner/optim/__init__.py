"""Optimizers and schedulers of torch: read their learning rates and step counts, and change them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
