"""The Agent Mailer Protocol broker: `agent-mailer broker serve` (extra `agent-mailer[broker]`)."""
