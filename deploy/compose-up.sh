#!/bin/sh
# Start the cluster in containers and wait until it serves. Its testnet lies in .trilemma/compose
# (or $TRILEMMA_TESTNET), where the client on this host finds keys, genesis and addresses:
#   .venv/bin/trilemma --testnet .trilemma/compose status
set -eu
cd "$(dirname "$0")/.."
. deploy/compose-command.sh
make_testnet
compose up -d --no-build
if ! "${VENV_PYTHON:-.venv/bin/python}" -m cluster.health --testnet "$TRILEMMA_TESTNET" --wait "${WAIT_S:-90}"; then
    compose ps
    compose logs --tail 20
    exit 1
fi
echo "the cluster serves; trade on it with: .venv/bin/trilemma --testnet $TRILEMMA_TESTNET"
