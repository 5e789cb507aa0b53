"""What does a person send by the clock, when, and what keeps it from leaving twice?"""
