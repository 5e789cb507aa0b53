"""Hooks: how programs of elsewhere write to agents, once for each thing."""
