"""The commands, one module a group: parse, call, render."""
