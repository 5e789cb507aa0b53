"""The agent program that does the work: the port, and one adapter a module."""
