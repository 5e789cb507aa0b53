"""People at the broker: registration, login, invites, keys."""
