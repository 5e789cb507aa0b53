#!/bin/sh
# Runs pytest with these arguments, or the unit and integration tests, where nothing is as it is here: another hour and
# weekday, a midnight on the way, another locale or one that is missing, and in a temporary folder that lies in a git
# tree and a mailbox of somebody else. Part of `./run elsewhere`.
set -eu
[ $# != 0 ] || set -- -n 2 --dist loadfile tests/unit tests/integration

above=$(mktemp -d)
trap 'rm -rf "$above"' EXIT
trap 'exit 130' INT
git init -q "$above"
mkdir -p "$above/.agent-mail/agents/stranger/inbox/new" "$above/tmp"
echo '{"root": ".agent-mail"}' > "$above/.amqrc"

# The zone in which it is three minutes to midnight now, with the signs that POSIX gives to zones.
east=$((86220 - $(date -u +%s) % 86400)) sign=-
[ "$east" -ge 0 ] || east=$((-east)) sign=+
midnight=XXX$sign$((east / 3600)):$((east / 60 % 60)):$((east % 60))

# A whole day, which POSIX allows, is more than Python can tell the offset of.
failed=
for place in "XXX-23:59 C" "XXX+23:59 POSIX" "XXX+5:45 C.UTF-8" "$midnight xx_XX.UTF-8"; do
  zone=${place% *} locale=${place#* }
  printf 'elsewhere: TZ=%s LC_ALL=%s, %s\n' "$zone" "$locale" "$(TZ=$zone date '+%A %F %H:%M')" >&2
  TZ=$zone LC_ALL=$locale LANG=$locale TMPDIR=$above/tmp python -m pytest "$@" || failed="$failed $zone,$locale"
done
[ -z "$failed" ] || { echo "elsewhere: failed in$failed" >&2; exit 1; }
