"""Create the testnet of the repository's compose file where there is none yet.

``python -m cluster.compose DIR [--owner UID:GID]`` does it, as deploy/prepare-compose.sh wants it;
run by root it gives the files to the user that containers run as. Exits with 2 where it cannot.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cluster.testnet import COMPOSE_OPTIONS, ensure_testnet
from protocol.errors import ConfigError


def give_to(directory: Path, uid: int, gid: int) -> None:
    """Make a folder and all in it this user's, if we are root; raises `ConfigError`."""
    if os.geteuid() != 0:
        return
    try:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, uid, gid, follow_symlinks=False)
    except OSError as error:
        raise ConfigError(f"cannot give {directory} to {uid}:{gid}: {error.strerror}") from None


def main(arguments: list[str]) -> int:
    """Create or keep the testnet; 2 where that fails."""
    parser = argparse.ArgumentParser(prog="cluster.compose", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--owner", default="", help="UID:GID of the containers, where root asks")
    options = parser.parse_args(arguments)
    try:
        testnet = ensure_testnet(options.directory, COMPOSE_OPTIONS)
        if testnet.place != "compose":
            raise ConfigError(
                f"the testnet in {testnet.directory} does not run in containers of compose; unset "
                "TRILEMMA_TESTNET, or have it name another folder"
            )
        if options.owner:
            uid, _, gid = options.owner.partition(":")
            give_to(testnet.directory, int(uid), int(gid))
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"testnet of {len(testnet.processes)} processes in {testnet.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
