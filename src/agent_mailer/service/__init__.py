"""The watcher as a service: what it tells its service manager, and how it gets there."""
