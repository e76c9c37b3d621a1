"""Pure arithmetic: plain numbers in, plain numbers out. Knows no torch.nn, no Lightning, no Optuna."""
