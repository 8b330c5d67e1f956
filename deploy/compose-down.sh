#!/bin/sh
# Remove the containers, their volumes and the testnet that they ran.
set -eu
cd "$(dirname "$0")/.."
. deploy/compose-command.sh
compose down --volumes --timeout 15
if [ -f "$TRILEMMA_TESTNET/testnet.json" ]; then
    rm -rf "$TRILEMMA_TESTNET"
fi
