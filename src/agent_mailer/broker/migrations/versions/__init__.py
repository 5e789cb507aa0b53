"""One module for each version, in order; a released one is never changed."""
