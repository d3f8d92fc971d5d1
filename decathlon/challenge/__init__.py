"""What the challenge asks for: submissions, points and score."""
