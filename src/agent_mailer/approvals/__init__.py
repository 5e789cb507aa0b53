"""A person's yes: what an agent wants to run is asked, answered, granted and used up, and nothing waits meanwhile."""

APPROVALS = "approvals.json"
"""In a turn's folder: what may be asked in it, and what was answered."""
