"""Everything between a method and a benchmark."""
