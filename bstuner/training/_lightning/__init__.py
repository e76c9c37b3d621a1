"""Every private Lightning attribute that bstuner touches, each with its reason; each has a canary test.

Lightning moves these between releases. Keeping them in one place means that an upgrade is one folder to read and one
test file to run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
