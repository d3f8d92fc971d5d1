"""Targets of `piggyback leaderboard VERB`."""
