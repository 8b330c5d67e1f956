#!/bin/sh
# Make a plain `docker compose up` work: .env names the user whom containers run as, and the folder
# of the testnet exists and is that user's (docker itself would make it root's).
set -eu
cd "$(dirname "$0")/.."
. deploy/compose-command.sh
make_testnet_folder
cat >.env <<END
# Written by deploy/prepare-compose.sh, read by docker compose.
COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME
TRILEMMA_UID=$TRILEMMA_UID
TRILEMMA_GID=$TRILEMMA_GID
END
