"""What a study or a trial keeps for bstuner alone, where dashboards do not show it.

Attributes of the user fill the tables of dashboards, and one that is long makes a page wider than any screen. Those of
the system are not shown.
"""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial

__all__ = ["keep_apart", "kept_apart"]

_PREFIX = "bstuner:"


def keep_apart(holder: Study | Trial, name: str, value: Any) -> None:
    """Keep a value, of the plain types that JSON knows.

    >>> import optuna
    >>> study = optuna.create_study()
    >>> keep_apart(study, "find", {"batch_size": 64})
    >>> kept_apart(study), study.user_attrs
    ({'find': {'batch_size': 64}}, {})

    Args:
        holder: The study or the trial.
        name: Its name.
        value: The value, which takes the place of an older one.
    """
    if isinstance(holder, Study):
        holder._storage.set_study_system_attr(holder._study_id, _PREFIX + name, value)
    else:
        holder.storage.set_trial_system_attr(holder._trial_id, _PREFIX + name, value)


def kept_apart(holder: Study | FrozenTrial) -> dict[str, Any]:
    """All that is kept so, by name.

    Args:
        holder: The study or the trial.
    """
    attributes = (
        holder._storage.get_study_system_attrs(holder._study_id) if isinstance(holder, Study) else holder.system_attrs
    )
    return {name[len(_PREFIX) :]: value for name, value in attributes.items() if name.startswith(_PREFIX)}
