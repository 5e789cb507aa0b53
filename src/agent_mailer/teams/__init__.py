"""How do several agents of one machine become one thing, and how are they started, stopped and looked at together?

The broker's teams are its own. Nothing here prints or asks: a command does.
"""
