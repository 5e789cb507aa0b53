"""One-time links by which a person answers an agent's question: offered by its watcher, shown, acted on once."""
