"""How does a watcher run without a terminal: what it tells its service manager, and how it gets there?"""
