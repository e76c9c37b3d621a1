from .draws import drawn_batches as drawn_batches, has_own_batches as has_own_batches
from .loaders import (
    batch_size_of as batch_size_of,
    cuts_batches as cuts_batches,
    drops_last as drops_last,
    known_batch_size as known_batch_size,
    num_samples as num_samples,
    set_batch_size as set_batch_size,
    size_holder as size_holder,
)
from .planned_batches import (
    Draw as Draw,
    EpochOrder as EpochOrder,
    check_can_be_planned as check_can_be_planned,
    own_generators as own_generators,
    with_planned_batches as with_planned_batches,
)
from .probe_batches import ProbeBatches as ProbeBatches
from .samples import (
    Samples as Samples,
    Scan as Scan,
    largest_samples as largest_samples,
    pick_samples as pick_samples,
)
from .worst_case import batch_of as batch_of, worst_batches as worst_batches
