"""What comes from outside, from programs that are nobody's agent, and how does it become mail? Pure."""
