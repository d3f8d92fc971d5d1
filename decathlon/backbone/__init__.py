"""The WRN-28-4 that all tasks share: the network, its file, its training."""
