# To be sourced: compose "$@" runs whichever compose there is, on this project's file, as the user
# who owns the testnet's folder: whoever called sudo, or for root itself a user of its own.
TRILEMMA_TESTNET=${TRILEMMA_TESTNET:-$PWD/.trilemma/compose}
if [ "$(id -u)" = 0 ]; then
    TRILEMMA_UID=${TRILEMMA_UID:-${SUDO_UID:-10001}}
    TRILEMMA_GID=${TRILEMMA_GID:-${SUDO_GID:-10001}}
else
    TRILEMMA_UID=${TRILEMMA_UID:-$(id -u)}
    TRILEMMA_GID=${TRILEMMA_GID:-$(id -g)}
fi
COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-trilemma}
export COMPOSE_PROJECT_NAME TRILEMMA_TESTNET TRILEMMA_UID TRILEMMA_GID

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    elif command -v docker-compose >/dev/null; then
        docker-compose "$@"
    else
        echo "there is neither 'docker compose' nor docker-compose; install one of them" >&2
        return 1
    fi
}

# Refuse a folder that TRILEMMA_TESTNET names for other commands, and that is no testnet of containers.
require_testnet_of_containers() {
    [ -e "$TRILEMMA_TESTNET/testnet.json" ] || return 0
    for read in "$TRILEMMA_TESTNET/testnet.json" "$TRILEMMA_TESTNET/config" \
        "$TRILEMMA_TESTNET/config/validator-0.toml"; do
        if [ -e "$read" ] && { [ ! -r "$read" ] || { [ -d "$read" ] && [ ! -x "$read" ]; }; }; then
            echo "cannot read $read, which belongs to another user; run this with sudo" >&2
            return 2
        fi
    done
    if ! grep -qs '^data = "/data/' "$TRILEMMA_TESTNET/config/validator-0.toml" ||
        grep -q 'validator-0\.validator-peers' "$TRILEMMA_TESTNET/testnet.json"; then
        echo "the testnet in $TRILEMMA_TESTNET does not run in containers of compose;" \
            "unset TRILEMMA_TESTNET, or have it name another folder" >&2
        return 2
    fi
}

# State of a testnet whose genesis and keys are gone is of no use to the next one.
require_no_volumes_of_another_testnet() {
    [ ! -e "$TRILEMMA_TESTNET/testnet.json" ] || return 0
    [ -n "$(docker volume ls -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")" ] || return 0
    echo "there are volumes of the project $COMPOSE_PROJECT_NAME, but $TRILEMMA_TESTNET, the testnet" \
        "they belong to, is gone; remove them with: make compose-down" >&2
    return 2
}

# The genesis, keys and configurations that the containers see, made once, and theirs to read.
make_testnet() {
    require_no_volumes_of_another_testnet
    "${VENV_PYTHON:-.venv/bin/python}" -m cluster.compose "$TRILEMMA_TESTNET" \
        --owner "$TRILEMMA_UID:$TRILEMMA_GID"
}
