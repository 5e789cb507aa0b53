"""Where mail comes from and goes to: the port, and one adapter a module or folder."""
