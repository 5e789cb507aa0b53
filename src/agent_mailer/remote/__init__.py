"""Who is told from afar what a watcher does, and what may they ask of it? `port.py` is the contract."""
