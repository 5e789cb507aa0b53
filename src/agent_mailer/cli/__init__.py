"""What can a person or a script ask for? Commands, one noun a module: parse, call, print; they decide nothing."""
