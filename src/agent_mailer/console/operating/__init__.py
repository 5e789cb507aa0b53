"""What agents do now, what of it needs a person, and what a person asks of their watchers."""
