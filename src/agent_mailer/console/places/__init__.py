"""What is kept beside mail: teams, channels, keys, users, figures, and who did what."""
