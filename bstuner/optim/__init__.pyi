from .at_construction import GivenRate as GivenRate, GivenRates as GivenRates
from .at_step import LRAtStep as LRAtStep, lr_at_last_step as lr_at_last_step
from .in_place import (
    attached_to as attached_to,
    bases_of as bases_of,
    is_of_torch as is_of_torch,
    leaves as leaves,
    rescale as rescale,
    scale_constants as scale_constants,
    source_of as source_of,
)
from .numbers import like as like, number_in as number_in
from .step_counts import read_constants as read_constants, write_constants as write_constants
