"""agent-mailer: a mailbox for every coding agent, and a watcher that runs it unattended."""

__version__ = "0.2.0.dev0"
