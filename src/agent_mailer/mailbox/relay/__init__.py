"""Mail at an Agent Relay server, over HTTP. Written from its README: what that leaves open is in `reader` alone."""
