#!/bin/sh
# Make a plain `docker compose up` work: .env names the testnet and the user whom containers run as,
# and the testnet is there and that user's.
set -eu
cd "$(dirname "$0")/.."
. deploy/compose-command.sh
make_testnet
cat >.env <<END
# Written by deploy/prepare-compose.sh, read by docker compose.
COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME
TRILEMMA_TESTNET=$TRILEMMA_TESTNET
TRILEMMA_UID=$TRILEMMA_UID
TRILEMMA_GID=$TRILEMMA_GID
END
