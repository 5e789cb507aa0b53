"""What does the database of the protocol's public broker become here? Read, translated, stored as a whole, compared."""
