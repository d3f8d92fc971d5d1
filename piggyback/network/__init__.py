"""A network as tasks see it: its parts, its heads, what is left out, and what others do to it."""
