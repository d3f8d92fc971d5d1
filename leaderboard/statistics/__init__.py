"""From results to entries: means and spreads over seeds, ranks, intervals, tests."""
