"""One training: the loop, checkpoints, run folders, rate trials, processes."""
