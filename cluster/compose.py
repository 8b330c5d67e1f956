"""Create the testnet of the compose cluster where there is none: ``python -m cluster.compose DIR``.

The one-shot service ``init`` runs it before all others. Exits with 2 where it cannot.
"""

from __future__ import annotations

import sys

from cluster.testnet import COMPOSE_OPTIONS, ensure_testnet
from protocol.errors import ConfigError


def main(arguments: list[str]) -> int:
    """Create or keep the testnet of the only argument."""
    if len(arguments) != 1:
        print("usage: python -m cluster.compose DIR", file=sys.stderr)
        return 2
    try:
        testnet = ensure_testnet(arguments[0], COMPOSE_OPTIONS)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"testnet of {len(testnet.processes)} processes in {testnet.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
