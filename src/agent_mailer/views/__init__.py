"""What is there to see? Values, and readers that make them from a workdir; nothing here writes."""
