"""What a team remembers: people write it, its agents read it."""
