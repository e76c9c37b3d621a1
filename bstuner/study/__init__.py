"""Optuna over the pure floor: what is searched, how trials are judged, and what a study keeps. Knows no torch."""
