"""Sweeps on a Slurm cluster through submitit.  Nothing is here yet; see CHANGELOG.md for what exists."""
