from .following import check_following as check_following, samples_drawn as samples_drawn
from .global_batch import GlobalBatch as GlobalBatch
from .locate import locate_batching as locate_batching, locate_validation_batching as locate_validation_batching
from .placement import Placement as Placement, plans_accumulation as plans_accumulation
from .places import Batching as Batching
