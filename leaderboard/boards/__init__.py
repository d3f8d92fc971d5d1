"""What is known of each benchmark: its tasks, its score, and what others published."""
