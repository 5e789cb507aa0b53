"""Codex as a runtime: `codex exec --json`, a thread per session."""
