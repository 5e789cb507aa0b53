"""What of a user's mail holds these words?"""
