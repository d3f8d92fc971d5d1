"""Mean IoU: counts, scores and overlay sheets."""
