"""What watchers report of their agents, and what people ask of them from afar."""
