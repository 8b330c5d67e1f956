"""What the supervisor and the system know of processes that do not answer, for ``status``."""

from __future__ import annotations

from cluster.faults_hold import RunFolder
from cluster.faults_targets import PAUSED, process_state
from store.running import is_supervised
from store.testnet import Testnet


def standings(testnet: Testnet, names: list[str]) -> dict[str, str]:
    """How each of these processes stands that does not answer: held, paused, silent (it runs),
    failed or waiting with the status it ended with; only those of whom one knows."""
    if not is_supervised(testnet.directory):
        return {}  # what a supervisor that was killed left behind
    folder = RunFolder(testnet.directory)
    found = {name: _stands(folder, name) for name in names}
    return {name: text for name, text in found.items() if text}


def _stands(folder: RunFolder, name: str) -> str:
    if folder.held(name):
        return "held"
    pid = folder.pid(name)
    letter = process_state(pid) if pid is not None else ""
    if letter in ("T", "t"):
        return PAUSED
    if letter not in ("", "Z", "X"):
        return "silent"
    standing = folder.standing(name)
    if standing is None or standing.state == "running":
        return ""
    ended = "" if standing.exit_status is None else f" (status {standing.exit_status})"
    return f"{standing.state}{ended}"
