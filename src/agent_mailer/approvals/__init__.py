"""A person's yes: what an agent wants to run is asked, answered, granted and used up, and nothing waits meanwhile."""
