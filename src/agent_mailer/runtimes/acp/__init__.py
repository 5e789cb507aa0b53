"""Any coding agent by its description: through the Agent Client Protocol, or by the lines that it prints."""
