"""Two agents that talk in turns, of one user or two; a person lets them go on."""
