"""Does it hold here? Kills at random moments on the user's machine and file system, and a count of what came of it."""
