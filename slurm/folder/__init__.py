"""A sweep's files: its folder, the claims in it, and small state files."""
