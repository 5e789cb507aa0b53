"""Who may start a turn, how often, for how much: one policy a file."""
