"""How do programs of elsewhere write to the agents of a folder mailbox? (A broker's hooks are its own.)"""
