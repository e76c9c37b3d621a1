from .frozen_fit import FrozenFit as FrozenFit, FrozenStart as FrozenStart, wind_back as wind_back
from .snapshot import Snapshot as Snapshot
