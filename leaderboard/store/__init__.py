"""A folder of results with their evidence: adding, reading and checking."""
