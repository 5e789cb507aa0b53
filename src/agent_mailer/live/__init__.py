"""How does the session that a person sits at come to mail tools, and hear of mail? A plugin for its program, and a
doorbell, which tells how many came and which: never what is in them.
"""
