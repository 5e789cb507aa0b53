"""One supervised child. Only this room starts, signals or waits for processes."""
