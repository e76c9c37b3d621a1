from .curves import (
    curves_figure as curves_figure,
    growth_figure as growth_figure,
    memory_figure as memory_figure,
    throughput_figure as throughput_figure,
)
from .schedule_plot import check_plot as check_plot, save_plot as save_plot
from .trials import front_figure as front_figure, trials_figure as trials_figure
