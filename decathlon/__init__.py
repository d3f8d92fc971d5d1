"""The Visual Decathlon: ten classification tasks, one frozen network."""
