"""What a study or a trial keeps for bstuner alone, where dashboards do not show it.

Attributes of the user fill the tables of dashboards, and one that is long makes a page wider than any screen. Those of
the system are not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial

from bstuner.study._optuna import METRIC_NAMES, set_study_system_attr, set_trial_system_attr, study_system_attrs

__all__ = ["read_system_attrs", "write_study_system_attrs", "write_system_attr"]

_PREFIX = "bstuner:"


def write_system_attr(holder: Study | Trial, name: str, value: Any) -> None:
    """Keep a value, of the plain types that JSON knows.

    >>> import optuna
    >>> study = optuna.create_study()
    >>> write_system_attr(study, "find", {"batch_size": 64})
    >>> read_system_attrs(study), study.user_attrs
    ({'find': {'batch_size': 64}}, {})

    Args:
        holder: The study or the trial.
        name: Its name.
        value: The value, which takes the place of an older one.
    """
    if isinstance(holder, Study):
        write_study_system_attrs(holder, {_PREFIX + name: value})
    else:
        set_trial_system_attr(holder, _PREFIX + name, value)


def read_system_attrs(holder: Study | FrozenTrial) -> dict[str, Any]:
    """All that is kept so, by name.

    Args:
        holder: The study or the trial.
    """
    attributes = study_system_attrs(holder) if isinstance(holder, Study) else holder.system_attrs
    return {name[len(_PREFIX) :]: value for name, value in attributes.items() if name.startswith(_PREFIX)}


def write_study_system_attrs(study: Study, attributes: Mapping[str, Any]) -> None:
    """Write attributes of the system into a study, in their order.

    The names of the metrics are written once more behind them. They are such an attribute too, and the viewers that
    read a journal without Optuna (in an editor, in a browser) take them from the last one, whichever it is.

    Args:
        study: The study.
        attributes: The attributes, by their whole names.
    """
    for name, value in attributes.items():
        set_study_system_attr(study, name, value)
    if attributes and study.metric_names is not None:
        set_study_system_attr(study, METRIC_NAMES, study.metric_names)
