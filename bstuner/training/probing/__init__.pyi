from .find import find_largest as find_largest
from .resume import matches as matches, take_up as take_up, to_save as to_save
from .warnings import accumulation_warnings as accumulation_warnings
