"""How Sphinx builds these pages: `make docs`, which needs no network."""

from __future__ import annotations

from importlib.metadata import version as version_of

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

import bstuner.api

project = "bstuner"
author = "The bstuner authors"
copyright = "the bstuner authors, Apache 2.0"
release = version = version_of("bstuner")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # so that find.md#limits is a link here as it is on a forge

# Types that a signature names must be documented here, or belong to others.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|lightning|numpy|optuna|typing|collections)\..*"),
    ("py:.*", r"(Base)?(Study|Storage|Sampler|Pruner)"),
    # Said in words beside each argument, or of no use to a reader.
    ("py:.*", r"Mode|Objective|Rounding|Rule|TrialBudget|bstuner\.core\..*\.(BatchPlan|MemoryLine|NominalSteps)"),
]
default_role = "code"  # what docstrings put between backticks is code
autodoc_typehints = "description"  # beside what an argument means
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_use_ivar = True  # attributes in a list, as arguments are

# Modules import Lightning's classes for the type checker alone; this one is read like a type checker.
vars(bstuner.api).update(LightningDataModule=LightningDataModule, LightningModule=LightningModule, Trainer=Trainer)

highlight_language = "none"  # what terminals print is no Python

html_theme = "furo"
html_title = f"bstuner {release}"
html_copy_source = False
html_show_sphinx = False


def setup(app: object) -> None:
    """Links to pages beside this folder, as a forge follows them, lead to the pages that include those here."""
    beside = {"(../benchmarks/README.md": "(benchmarks.md", "(../examples/README.md": "(examples.md"}

    def redirect(app: object, page: str, source: list[str]) -> None:
        for theirs, ours in beside.items():
            source[0] = source[0].replace(theirs, ours)

    app.connect("source-read", redirect)
