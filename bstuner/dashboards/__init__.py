"""What dashboards for Optuna show of a study that bstuner made: a note, figures, and the probes."""
