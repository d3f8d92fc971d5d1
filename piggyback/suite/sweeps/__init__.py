"""A benchmark's part of a sweep: from the lines of a sweep's file to planned runs."""
