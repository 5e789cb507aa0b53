"""The pages of `agent-mailer console`: the agents of this machine's user, without a broker."""
