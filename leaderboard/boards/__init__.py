"""Boards: what a leaderboard must know of a benchmark, found by entry points."""
