"""How does a session that a person sits at work on a message? `adapter` is its runtime, `stand_in` its turn's process."""
