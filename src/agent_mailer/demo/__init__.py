"""What does it look like? Two agents, two real watchers, one task, by the installed command and nothing else."""
