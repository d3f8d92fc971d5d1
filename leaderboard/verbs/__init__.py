"""What `piggyback leaderboard VERB` does."""
