# The base image is made by deploy/make-base-image.sh and the wheels are fetched by
# deploy/fetch_wheels.py; deploy/build-image.sh does both and then builds this, without network.
FROM trilemma-base:bookworm AS build
WORKDIR /src
COPY deploy/wheels /wheels
COPY . .
RUN python3 -m venv /opt/trilemma \
 && /opt/trilemma/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheels \
        --constraint requirements.lock setuptools \
 && /opt/trilemma/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheels \
        --constraint requirements.lock --no-build-isolation . \
 && /opt/trilemma/bin/pip uninstall --quiet --yes setuptools pip

FROM trilemma-base:bookworm
COPY --from=build /opt/trilemma /opt/trilemma
# A volume mounted on an empty folder takes over its mode, so any user of the host can own it.
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin trilemma \
 && install --directory --mode 1777 /data /testnet
ENV PATH=/opt/trilemma/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["trilemma"]
