"""Every private Lightning attribute that bstuner touches, each with its reason; each has a canary test.

Lightning moves these between releases. Keeping them in one place means that an upgrade is one folder to read and one
test file to run.
"""

from bstuner.training._lightning.loaders import (
    begin_epoch_anew,
    combination_mode,
    forget_loaders,
    has_loaders,
    hook_of,
    last_reload,
    loaders_come_from_hooks,
    prepared_loader,
    request_loaders,
    resize_when_rebuilt,
    restart_evaluation,
    set_last_reload,
    substitute_train_loaders,
)
from bstuner.training._lightning.loops import (
    EVALUATION_LOOPS,
    end_run_early,
    install_evaluation_loop,
    install_fit_loop,
    install_trial_loop,
    log_step,
    set_epoch_length,
    set_step_limits,
    validates_by_time,
)
from bstuner.training._lightning.processes import (
    end_processes,
    has_communication_hook,
    launch,
    leave_launcher,
    processes_started_with,
    spawns_processes,
)
from bstuner.training._lightning.resuming import (
    begin_epoch_in_full,
    checkpoint_to_resume,
    end_epoch_in_full,
    go_on_after_batch,
    restore_metrics,
    state_to_come,
    step_plateaus_after_batch,
)
from bstuner.training._lightning.stepping import (
    checkpoint_steps,
    hide_scheduler_step,
    set_checkpoint_steps,
    shadow_scheduler_step,
)

__all__ = [
    "EVALUATION_LOOPS",
    "begin_epoch_anew",
    "begin_epoch_in_full",
    "checkpoint_steps",
    "checkpoint_to_resume",
    "combination_mode",
    "end_epoch_in_full",
    "end_processes",
    "end_run_early",
    "forget_loaders",
    "go_on_after_batch",
    "has_communication_hook",
    "has_loaders",
    "hide_scheduler_step",
    "hook_of",
    "install_evaluation_loop",
    "install_fit_loop",
    "install_trial_loop",
    "last_reload",
    "launch",
    "leave_launcher",
    "loaders_come_from_hooks",
    "log_step",
    "prepared_loader",
    "processes_started_with",
    "request_loaders",
    "resize_when_rebuilt",
    "restart_evaluation",
    "restore_metrics",
    "set_checkpoint_steps",
    "set_epoch_length",
    "set_last_reload",
    "set_step_limits",
    "shadow_scheduler_step",
    "spawns_processes",
    "state_to_come",
    "step_plateaus_after_batch",
    "substitute_train_loaders",
    "validates_by_time",
]
