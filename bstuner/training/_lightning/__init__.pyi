from .hyperparameters import hyperparameters_recorded as hyperparameters_recorded
from .loaders import (
    begin_epoch_anew as begin_epoch_anew,
    combination_mode as combination_mode,
    forget_loaders as forget_loaders,
    has_loaders as has_loaders,
    hook_of as hook_of,
    last_reload as last_reload,
    loaders_come_from_hooks as loaders_come_from_hooks,
    loaders_noticed as loaders_noticed,
    prepared_loader as prepared_loader,
    request_loaders as request_loaders,
    resize as resize,
    resize_when_rebuilt as resize_when_rebuilt,
    restart_evaluation as restart_evaluation,
    set_last_reload as set_last_reload,
    substitute_train_loaders as substitute_train_loaders,
)
from .loggers import loggers_set_aside as loggers_set_aside, mute_loggers as mute_loggers
from .loops import (
    EVALUATION_LOOPS as EVALUATION_LOOPS,
    current_fit_loop as current_fit_loop,
    end_run_early as end_run_early,
    install_evaluation_loop as install_evaluation_loop,
    install_fit_loop as install_fit_loop,
    install_trial_loop as install_trial_loop,
    is_tried_by_tuner as is_tried_by_tuner,
    log_step as log_step,
    run_evaluation_loop as run_evaluation_loop,
    run_fit_loop as run_fit_loop,
    set_epoch_length as set_epoch_length,
    set_step_limits as set_step_limits,
    show_loaders as show_loaders,
)
from .processes import (
    end_processes as end_processes,
    launch as launch,
    leave_launcher as leave_launcher,
    processes_started_with as processes_started_with,
    spawns_processes as spawns_processes,
)
from .resuming import (
    begin_epoch_again as begin_epoch_again,
    begin_epoch_in_full as begin_epoch_in_full,
    checkpoint_to_resume as checkpoint_to_resume,
    end_epoch_in_full as end_epoch_in_full,
    go_on_after_batch as go_on_after_batch,
    restore_metrics as restore_metrics,
    state_to_come as state_to_come,
    step_plateaus_after_batch as step_plateaus_after_batch,
)
from .roots import (
    LightningCallback as LightningCallback,
    each_lightning as each_lightning,
    is_served as is_served,
    lightning_of as lightning_of,
)
from .stepping import (
    checkpoint_steps as checkpoint_steps,
    hide_scheduler_step as hide_scheduler_step,
    set_checkpoint_steps as set_checkpoint_steps,
    shadow_scheduler_step as shadow_scheduler_step,
)
from .strategies import (
    before_optimizers_exist as before_optimizers_exist,
    ddp_wrapper as ddp_wrapper,
    has_communication_hook as has_communication_hook,
    has_known_strategy as has_known_strategy,
    make_optimizers as make_optimizers,
    replicas as replicas,
    unwrap as unwrap,
    wrap as wrap,
)
from .user_code import (
    batch_size_or_none as batch_size_or_none,
    extract_batch_size as extract_batch_size,
    is_compiled_by_lightning as is_compiled_by_lightning,
    is_overridden as is_overridden,
    lightning_getattr as lightning_getattr,
    lightning_hasattr as lightning_hasattr,
    lightning_setattr as lightning_setattr,
)
from .validation import (
    batch_of_fit as batch_of_fit,
    run_validation as run_validation,
    validate_every as validate_every,
    validates as validates,
    validates_by_time as validates_by_time,
)
