"""The demonstration: two agents, two real watchers, one task. It uses the installed command and nothing else."""
