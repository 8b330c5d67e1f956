#!/bin/sh
# Remove the containers (those of Prometheus and Grafana, too), their volumes and the testnet that
# they ran.
set -eu
cd "$(dirname "$0")/.."
. deploy/compose-command.sh
require_testnet_of_containers
compose --profile metrics down --volumes --timeout 15
if [ -f "$TRILEMMA_TESTNET/testnet.json" ]; then
    rm -rf "$TRILEMMA_TESTNET"
fi
