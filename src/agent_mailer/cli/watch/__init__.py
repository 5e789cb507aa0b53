"""`watch`: run the agent unattended."""
