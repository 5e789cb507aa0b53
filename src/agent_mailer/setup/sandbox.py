"""Which sandbox a new agent gets: the first that holds here, tried with its settings; or the one that was chosen."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping

import msgspec

from agent_mailer.assemble import Workplace
from agent_mailer.checks.agent import program_of
from agent_mailer.config_values import kind_of_environment
from agent_mailer.confine.kinds import BY_ITSELF
from agent_mailer.confine.port import Kind
from agent_mailer.confine.proof import Proof
from agent_mailer.errors import ConfigFault
from agent_mailer.runtimes.port import Launch, PermissionMode, RuntimeMissing
from agent_mailer.setup.config_file import ConfigFile
from agent_mailer.trust.workdir import in_a_turn

KEY = "sandbox.kind"


def settle_sandbox(place: Workplace, flags: Mapping[str, object], chosen: Kind | None) -> str:
    """Write the kind into the configuration, which must be there already, and say it in a line.

    Empty = it stood there, or the environment says it.

    Without a choice the first kind that holds is taken, and `off` where none does. Raises ConfigFault where the chosen
    one does not hold: it is written all the same, so that no turn is started without it.
    """
    file = ConfigFile(place.folder.config, place.disk)
    said = kind_of_environment(os.environ)
    if chosen is None and (file.get(KEY) is not None or said is Kind.OFF):
        return ""
    chosen = said if chosen is None else chosen
    kind, why, fix = _first_that_holds(place, flags, BY_ITSELF if chosen is None else (chosen,))
    written = kind if chosen is None else chosen
    if file.get("sandbox") is None:
        file.set("sandbox", {"kind": written.value})
    else:
        file.set(KEY, written.value)
    fresh = Workplace(place.workdir)
    trusted = fresh.trust.verdict
    with fresh.trust.changing():
        file.save()
        if not in_a_turn(os.environ):
            fresh.trust.follow(trusted, "init", (KEY,))
    if chosen is not None and kind is not chosen:
        raise ConfigFault("sandbox_not_proved", f"the sandbox does not hold: {why}", fix)
    if written is Kind.OFF:
        return f"sandbox   off: a turn may touch all that you may touch{f' ({why})' if why else ''}"
    limit = ": new files only in folders below this one, and in project_dir" if written is Kind.LANDLOCK else ""
    return f"sandbox   {written}, tried here{limit}"


def _first_that_holds(place: Workplace, flags: Mapping[str, object], kinds: tuple[Kind, ...]) -> tuple[Kind, str, str]:
    """With why the others do not, and what mends the first."""
    faults: list[Proof] = []
    for kind in kinds:
        proof = None if kind is Kind.OFF else _tried(place, flags, kind)
        if proof is not None and proof.holds and kind is Kind.LANDLOCK and kinds == BY_ITSELF and _is_in_the_way(place):
            proof = Proof(kind, wrong=(_IN_THE_WAY,))
        if proof is None or proof.holds:
            return kind, "", ""
        faults.append(proof)
    return Kind.OFF, "; ".join(f"{one.kind}: {one.text}" for one in faults), faults[0].fix


_IN_THE_WAY = "holds, but no new file could be made right in this folder (--sandbox landlock, or --project-dir)"


def _is_in_the_way(place: Workplace) -> bool:
    """Whether bubblewrap, once it is installed, leaves the agent more: new names in the folder it works in.

    Where it is installed and does not start, there are no namespaces, and Landlock is what there is.
    """
    if shutil.which("bwrap") is not None or place.config.permission_mode is PermissionMode.PLAN:
        return False
    project = place.project_dir()
    return project is None or place.workdir.is_relative_to(project)


def _tried(place: Workplace, flags: Mapping[str, object], kind: Kind) -> Proof:
    table = {**msgspec.to_builtins(place.config.sandbox), "kind": kind.value}
    trial = Workplace(place.workdir, {**flags, "sandbox": table})
    try:
        launch = program_of(trial).launch
    except RuntimeMissing:
        # The agent program may be installed later; what it is matters less than what stands around it.
        launch = Launch(("/bin/sh",), {"PATH": "/usr/bin:/bin"}, place.workdir)
    confinement = trial.confinement(trial.runtime())
    assert confinement is not None
    return asyncio.run(confinement.prove(launch))
