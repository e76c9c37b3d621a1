"""The public callbacks, one file each, each a thin shell over the floors below."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
