"""mcp_agent_mail: one agent's mailbox at a server that is an MCP server over HTTP."""
