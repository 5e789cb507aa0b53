"""Messages at the broker: sent, stored, read, claimed."""
