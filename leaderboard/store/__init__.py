"""A folder of results with their evidence: how it is filled, read and checked."""
