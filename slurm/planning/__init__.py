"""Plans of sweeps: sweep files, profiles, the runs that benchmarks plan, and how long they may take."""
