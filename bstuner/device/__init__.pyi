from .memory import DeviceMemory as DeviceMemory, memory_of as memory_of, name_on_host as name_on_host
from .oom import is_out_of_memory as is_out_of_memory
from .random_state import RandomState as RandomState
