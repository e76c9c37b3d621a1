from .frozen_fit import (
    FrozenFit as FrozenFit,
    FrozenStart as FrozenStart,
    before_optimizers_exist as before_optimizers_exist,
    wind_back as wind_back,
)
from .snapshot import Snapshot as Snapshot
