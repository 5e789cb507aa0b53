"""What may a turn touch, and what proves it?"""
