#!/bin/sh
# What claude calls at the moments that hooks.json names. In a headless run and in a turn of an agent it does nothing.
[ "$CLAUDE_CODE_ENTRYPOINT" = cli ] && [ "$CLAUDE_CODE_SESSION_ATTENDED" != 0 ] && [ -z "$AGENT_MAILER_TURN_DIR" ] ||
    exit 0
heard=$(cat)
# A ring is no prompt of the person's, and its turn waits for this hook.
if [ "$1" = prompt ]; then
    case $heard in *'[doorbell of agent-mailer]'*) exit 0 ;; esac
fi
printf '%s\n' "$heard" | @PROGRAM@ plugin hook claude
# 2 begins a turn, again and again; and with 2 ends any command that gets a wrong word. So a ring has a number of its own.
[ $? = 10 ] && exit 2
exit 0
