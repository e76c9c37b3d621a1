from .lockstep import run_on_all as run_on_all
from .peers import Peers as Peers
