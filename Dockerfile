# The base image is made by deploy/make-base-image.sh and the wheels are fetched by
# deploy/fetch_wheels.py; deploy/build-image.sh does both and then builds this, without network.
FROM trilemma-base:bookworm AS build
WORKDIR /src
# Packages first: they change less often than the project.
COPY deploy/wheels /wheels
COPY requirements.lock pyproject.toml ./
RUN python3 -m venv /opt/trilemma \
 && sed '/^# to build/,$d' requirements.lock > /wheels/run.txt \
 && /opt/trilemma/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheels \
        --requirement /wheels/run.txt \
 && /opt/trilemma/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheels \
        --constraint requirements.lock setuptools
COPY . .
# Bytecode is written here, not at each start: the containers' root file system is read-only.
RUN /opt/trilemma/bin/pip install --quiet --no-cache-dir --no-index --no-deps \
        --no-build-isolation . \
 && cp cluster/ready.py /opt/trilemma/ready.py \
 && /opt/trilemma/bin/pip uninstall --quiet --yes setuptools pip \
 && cd /opt/trilemma/lib/python3.11/site-packages \
 && find . -depth -type d -name tests -exec rm -rf {} + \
 && find . \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' \
        -o -name '*.a' \) -delete \
 && python3 -m compileall -q -f --invalidation-mode unchecked-hash . \
 && /opt/trilemma/bin/python -c 'import margin.sweep_kernel, cluster.cli'

# What a process needs of Debian, and nothing that installs or builds.
FROM trilemma-base:bookworm AS root
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin trilemma \
 # A volume mounted on an empty folder takes over its mode, so any user of the host can own it.
 && install --directory --mode 1777 /data \
 && install --directory --mode 0755 /testnet /testnet/config /testnet/keys \
 && cd /usr/lib/python3.11 \
 && rm -rf ensurepip lib2to3 pydoc_data idlelib distutils/command /usr/share/python-wheels \
 && rm -rf /usr/bin/perl* /usr/lib/x86_64-linux-gnu/perl* /usr/share/perl* \
        /usr/lib/apt /usr/bin/apt* /etc/apt /usr/lib/*/libapt-* /var/lib/apt /var/cache \
        /var/lib/dpkg/info /usr/lib/*/gconv /usr/bin/gpgv /usr/bin/localedef /usr/lib/*/libdb-* \
        /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/zoneinfo

FROM scratch
COPY --from=root / /
COPY --from=build /opt/trilemma /opt/trilemma
ENV PATH=/opt/trilemma/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["trilemma"]
