"""The person behind the agents, and what the first user alone may do."""
