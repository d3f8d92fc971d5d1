"""What a sweep keeps on the disk: its folder, the claims in it, and small state files."""
