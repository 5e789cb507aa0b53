#!/usr/bin/env bash
# The broker, from a checkout: ./run.sh [OPTIONS of `agent-mailer broker serve`]. Settings come from the environment, and
# from a file .env beside this one (NAME=VALUE a line), where the environment does not say otherwise.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

if [ -f "$here/.env" ]; then
  while IFS= read -r line || [ -n "$line" ]; do
    # Read, never run.
    [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
    name=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]%$'\r'}
    if [[ $value =~ ^\"(.*)\"[[:space:]]*$ || $value =~ ^\'(.*)\'[[:space:]]*$ ]]; then value=${BASH_REMATCH[1]}; fi
    [ -n "${!name+set}" ] || export "$name=$value"
  done < "$here/.env"
fi

program=$here/.venv/bin/agent-mailer
if [ ! -x "$program" ]; then
  command -v uv > /dev/null || {
    echo "run.sh: nothing is installed here yet; do one of" >&2
    echo "  uv sync" >&2
    echo "  python3 -m venv .venv && .venv/bin/pip install -e '.[broker,postgres,metrics]'" >&2
    exit 1
  }
  (cd -- "$here" && uv sync)
fi
exec "$program" broker serve "$@"
