#!/bin/sh
# Build the image trilemma:latest: the base image, the wheels, then the Dockerfile, without network.
set -eu
cd "$(dirname "$0")/.."
python=${VENV_PYTHON:-.venv/bin/python}
if [ ! -x "$python" ]; then
    echo "there is no .venv; run: make image" >&2
    exit 1
fi
if ! docker info >/dev/null 2>&1; then
    echo "no docker daemon answers; on a Debian machine: sudo sh deploy/ensure-docker.sh" >&2
    exit 1
fi
sh deploy/make-base-image.sh
"$python" deploy/fetch_wheels.py
docker build --network=none --tag "${IMAGE:-trilemma:latest}" .
