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

# The genesis, keys and configurations that the containers see, made once, and theirs to read.
make_testnet() {
    "${VENV_PYTHON:-.venv/bin/python}" -m cluster.compose "$TRILEMMA_TESTNET" \
        --owner "$TRILEMMA_UID:$TRILEMMA_GID"
}
