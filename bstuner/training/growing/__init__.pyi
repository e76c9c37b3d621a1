from .data import LoaderDraws as LoaderDraws
from .fit import GrowingFit as GrowingFit
from .indexed_fit import IndexedFit as IndexedFit
from .planner import GrowthPlanner as GrowthPlanner
from .streamed_fit import StreamedFit as StreamedFit
