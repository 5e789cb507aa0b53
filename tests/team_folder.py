"""The folder of a team of one agent, with the file that a person wrote."""

from __future__ import annotations

from pathlib import Path

from agent_mailer.teams.plan import FILE

_TEAM = """\
team: shop
broker_url: ''
agent_runtime: codex
permission_mode: plan
project_dir: {project}
agents:
  - name: shop_coder
    role: coder
    description: Codes
    system_prompt: {prompt}
"""


def team_in(base: Path) -> Path:
    folder = base / "team"
    (folder / "agents" / "shop_coder").mkdir(parents=True)
    (base / "project").mkdir()
    say(folder)
    return folder


def say(folder: Path, prompt: str = "You code.", project: Path | None = None) -> None:
    (folder / FILE).write_text(_TEAM.format(project=project or folder.parent / "project", prompt=prompt))
