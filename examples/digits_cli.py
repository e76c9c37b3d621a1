"""The same model and data as a LightningCLI program.

python examples/digits_cli.py fit -c examples/digits.yaml
bstuner find examples/digits_cli.py fit -c examples/digits.yaml
python examples/digits_cli.py fit -c examples/digits.yaml -c bstuner-overlay.yaml
"""

from __future__ import annotations

from digits import Classifier, Digits
from lightning.pytorch.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI(Classifier, Digits, save_config_callback=None)
