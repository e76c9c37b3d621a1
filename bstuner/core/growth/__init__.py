"""The plan by which a batch grows: phases, epochs and steps in plain numbers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
