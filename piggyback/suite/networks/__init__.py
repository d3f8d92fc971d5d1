"""Networks that are made before or from a task's run: pruned, jointly trained, merged."""
