"""From a sweep's file to its runs: sweeps, profiles, the runs that benchmarks plan, and how long they may take."""
