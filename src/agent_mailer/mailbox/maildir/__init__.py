"""A folder in AMQ's on-disk format as a mailbox. No server; `amq` itself can be the other end."""
