"""What is there to see? Values with a key and a version, read from a workdir without a lock or a write."""
