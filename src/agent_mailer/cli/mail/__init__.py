"""How is mail read and written? As the agent during its turn, as a person elsewhere; `commands` and `send` begin it."""
