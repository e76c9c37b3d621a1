"""A running fit as it was, bit for bit: freeze and restore."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
