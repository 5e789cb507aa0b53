"""Teams of agents, as a person or a launcher keeps them."""
