"""The processes of a run, by torch.distributed: none waits for one that has failed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
