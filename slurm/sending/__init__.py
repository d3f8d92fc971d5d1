"""Submission and cancellation of runs: to Slurm by sbatch, to a queue on this machine, from a copy of the code."""
