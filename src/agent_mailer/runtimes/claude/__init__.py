"""Claude Code, headless: one process a turn, its events as JSON lines."""
