"""Agents at the broker: as their programs see them, and as their owner does."""
