# To be sourced: compose "$@" runs whichever compose there is, on this project's file, as the user
# who owns the testnet's folder. Root's containers run as a user of their own.
TRILEMMA_TESTNET=${TRILEMMA_TESTNET:-$PWD/.trilemma/compose}
if [ "$(id -u)" = 0 ]; then
    TRILEMMA_UID=${TRILEMMA_UID:-10001}
    TRILEMMA_GID=${TRILEMMA_GID:-10001}
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
