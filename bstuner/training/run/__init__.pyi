from .callbacks import (
    OwnCallback as OwnCallback,
    call_fit_start as call_fit_start,
    lightnings_searches as lightnings_searches,
    shows_progress as shows_progress,
)
from .combined_loader import combined as combined, flat_loaders as flat_loaders, with_loaders as with_loaders
from .garbage import short_collections as short_collections
from .horizon import Horizon as Horizon, horizon_of as horizon_of, steps_of as steps_of
from .inert import bystanders_inert as bystanders_inert, noting as noting
from .limits import (
    changed_settings as changed_settings,
    epoch_data as epoch_data,
    largest_allowed as largest_allowed,
    last_batch_trouble as last_batch_trouble,
    limit_of as limit_of,
    refuse_contradictions as refuse_contradictions,
    samples_here as samples_here,
)
from .loaders import passed_loaders as passed_loaders
from .muting import muted as muted
from .search_state import search_is_on as search_is_on
from .spawned import in_processes as in_processes
from .strategy import refuse_unsupported as refuse_unsupported, wrap_for_probe as wrap_for_probe
