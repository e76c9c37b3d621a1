"""What a device holds and what a data loader feeds it: torch, no Lightning."""
