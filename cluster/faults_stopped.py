"""What is told of processes that stopped for safety's sake, and of those that cannot be healed."""

from __future__ import annotations

from client.faults import EXIT_SAFETY
from cluster.faults_containers import described_containers
from cluster.faults_hold import RunFolder
from store.running import is_supervised
from store.testnet import Testnet

STAYS = "{name} stopped for safety's sake and stays down; its log says why"
TRIED = (
    "{name} stopped for safety's sake, and docker starts it again, ten times at most; its log says "
    "why. No more of that: docker stop {container}"
)


def safety_stops(testnet: Testnet) -> list[str]:
    """A sentence on each process that stopped because an invariant was broken, as the supervisor
    or docker knows it; none where neither runs the testnet. Blocks."""
    names = [entry.name for entry in testnet.processes]
    if is_supervised(testnet.directory):
        folder = RunFolder(testnet.directory)
        found = {name: folder.standing(name) for name in names}
        return [
            STAYS.format(name=name)
            for name, stands in found.items()
            if stands and stands.state == "failed" and stands.exit_status == EXIT_SAFETY
        ]
    told = []
    containers = described_containers(testnet)
    for name in names:
        container = containers.get(name, {})
        state = container.get("State", {})
        # One that runs has the status 0, whatever it ended with before.
        if state.get("ExitCode") == EXIT_SAFETY:
            text = TRIED if state.get("Restarting") else STAYS
            told.append(text.format(name=name, container=container["Name"].lstrip("/")))
    return told


def unhealed(troubles: dict[str, list[str]], stopped: list[str]) -> str:
    """What keeps processes from being healed, by trouble, and who `stopped` for safety's sake."""
    told = [
        trouble if all(name in trouble for name in names) else f"{', '.join(names)}: {trouble}"
        for trouble, names in troubles.items()
    ]
    if stopped:
        told.append(f"{', '.join(stopped)} stopped for safety's sake and stays down")
    return f"{'; '.join(told)}; its log says why. All others are healed"
