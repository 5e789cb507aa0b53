"""Becoming an agent of a broker: the documents in the agent's folder, and a person's login. No network here."""
