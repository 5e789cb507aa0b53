"""The mail tools of a turn as an MCP server on standard input and output (`python -m agent_mailer.turn_tools.mcp`).

Written by hand because an agent program waits for it before its first request: the official SDK's server takes a second
or more and 65 MiB to start, and nothing here needs more than one request after the other.
"""
