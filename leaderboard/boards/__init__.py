"""Boards: a leaderboard's knowledge of benchmarks, found through entry points."""
