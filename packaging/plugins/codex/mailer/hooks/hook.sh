#!/bin/sh
# What codex calls at the moments that hooks.json names. In a turn of an agent it does nothing.
[ -z "$AGENT_MAILER_TURN_DIR" ] || exit 0
heard=$(cat)
# A ring is no prompt of the person's, and its turn waits for this hook.
if [ "$1" = prompt ]; then
    case $heard in *'[doorbell of agent-mailer]'*) exit 0 ;; esac
fi
printf '%s\n' "$heard" | @PROGRAM@ plugin hook codex
exit 0
