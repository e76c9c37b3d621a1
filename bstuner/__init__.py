"""Find the batch size, and the learning rate with it, for PyTorch Lightning."""
