#!/bin/sh
# Make docker usable on a Debian machine of one's own, as CI's: install it and start its daemon.
# Needs root. The daemon logs to $DOCKERD_LOG, and its pid is printed where this started it.
set -eu
log=${DOCKERD_LOG:-/tmp/trilemma-dockerd.log}
missing=""
command -v dockerd >/dev/null || missing="$missing docker.io iptables"
command -v debootstrap >/dev/null || missing="$missing debootstrap"
command -v ip >/dev/null || missing="$missing iproute2"
if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
    missing="$missing docker-compose"
fi
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >/dev/null
    # shellcheck disable=SC2086
    apt-get -qq install --yes --no-install-recommends $missing >/dev/null
fi
if docker info >/dev/null 2>&1; then
    exit 0
fi
setsid nohup dockerd >"$log" 2>&1 </dev/null &
pid=$!
tries=0
until docker info >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 60 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "dockerd did not start:" >&2
        tail -n 20 "$log" >&2
        exit 1
    fi
    sleep 0.5
done
echo "$pid"
