"""`python -m bstuner`, the same as `bstuner`."""

import sys

from bstuner.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
