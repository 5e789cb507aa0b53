"""Threads as a person keeps them: listed, archived, in the trash, deleted for good."""
