"""How does a folder become an agent's workdir?"""
