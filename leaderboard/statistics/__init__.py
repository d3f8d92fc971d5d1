"""Statistics over results: means and spreads over seeds, ranks, intervals, tests."""
