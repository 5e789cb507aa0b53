"""What the agent uses during a turn, over the turn's folder only: no key, no network, no watcher needed."""
