"""How does a session that a person sits at do a turn? `adapter` is its runtime, `stand_in` the turn's process."""
