"""The compose file of a testnet, one service per process, for compose v2 and docker-compose 1.29.

A container sees the genesis file, its own configuration and its own key, and none of the others;
its root file system is read-only, its data lie in a volume of its own.
"""

from __future__ import annotations

import msgspec

from cluster.layout import DEFAULT_BASE_PORT
from cluster.testnet import COMPOSE_OPTIONS, process_entries, scrape_targets
from store.config import Role, parse_address
from store.testnet import CONFIG_FOLDER, GENESIS_FILE, KEY_FOLDER, ProcessEntry

CONTAINER_UID = 10_001
"""User and group that the image runs as unless told otherwise."""
TESTNET_IN_CONTAINER = "/testnet"

FIRST_LINE = (
    "# Written by: trilemma init --compose FILE. A cluster of another size is another file."
)

PROMETHEUS_IMAGE = "prom/prometheus:v3.5.0"
GRAFANA_IMAGE = "grafana/grafana:12.1.1"
TARGETS_IN_PROMETHEUS = "/etc/prometheus/targets/compose.json"

MEMORY: dict[Role, str] = {
    "node": "2g",
    "sequencer": "2g",
    "execution": "4g",
    "prover": "4g",
    "challenger": "4g",
}
"""Most memory of a container, swap included (a member that swaps misses its views); beyond it the
kernel ends the process, and it starts again."""


class ComposeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says besides the processes.

    `testnet` is the testnet's folder and `deploy` the folder of Prometheus' and Grafana's files
    (empty: without these two), whose list of what to scrape `targets` replaces where it is not
    empty; containers run as `user`. All as compose reads them, so that they may take a variable of
    the environment before a default.
    """

    testnet: str = "${TRILEMMA_TESTNET:-./.trilemma/compose}"
    deploy: str = "./deploy"
    targets: str = ""
    image: str = "${TRILEMMA_IMAGE:-trilemma:latest}"
    user: str = f"${{TRILEMMA_UID:-{CONTAINER_UID}}}:${{TRILEMMA_GID:-{CONTAINER_UID}}}"


def compose_file(processes: list[ProcessEntry], options: ComposeOptions | None = None) -> str:
    """The text of the file."""
    options = options or ComposeOptions()
    parts = [_head(options)]
    parts += [_service(entry, options) for entry in processes]
    if options.deploy:
        parts.append(_dashboards(options))
    volumes = [entry.name for entry in processes]
    volumes += ["prometheus", "grafana"] if options.deploy else []
    parts.append("networks:\n  trilemma: {}\n")
    parts.append("volumes:\n" + "".join(f"  {name}: {{}}\n" for name in volumes))
    return "\n".join(parts)


def default_compose_file() -> str:
    """The repository's own ``docker-compose.yml``."""
    return compose_file(process_entries(COMPOSE_OPTIONS, DEFAULT_BASE_PORT))


def container_targets(processes: list[ProcessEntry]) -> str:
    """What compose's Prometheus scrapes, as containers name each other."""
    return scrape_targets(
        {one.name: f"{one.name}:{parse_address(one.observe)[1]}" for one in processes}
    )


def _head(options: ComposeOptions) -> str:
    return f"""\
{FIRST_LINE}
#   docker compose -f FILE up -d                      once the image is there: make image
#   docker compose -f FILE --profile metrics up -d    with Prometheus and Grafana

x-hardened: &hardened
  networks: [trilemma]
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  tmpfs: ["/tmp:size=64m,mode=1777"]
  pids_limit: 256
  logging:
    driver: json-file
    options: {{max-size: 16m, max-file: "3"}}

x-process: &process
  <<: *hardened
  image: {options.image}
  user: "{options.user}"
  restart: on-failure:10
  stop_grace_period: 15s

x-health: &health
  interval: 10s
  timeout: 5s
  retries: 3
  start_period: 60s

services:"""


def _service(entry: ProcessEntry, options: ComposeOptions) -> str:
    name = entry.name
    ports = [parse_address(address)[1] for address in (entry.public, entry.observe)]
    published = ", ".join(f'"127.0.0.1:{port}:{port}"' for port in ports)
    files = (GENESIS_FILE, f"{CONFIG_FOLDER}/{name}.toml", f"{KEY_FOLDER}/{name}.key")
    mounts = "\n".join(f"      - {_bind(f'{options.testnet}/{file}', file)}" for file in files)
    return f"""\
  {name}:
    <<: *process
    command: [{entry.role}, --config, {TESTNET_IN_CONTAINER}/{CONFIG_FOLDER}/{name}.toml]
    mem_limit: {MEMORY[entry.role]}
    memswap_limit: {MEMORY[entry.role]}
    ports: [{published}]
    volumes:
{mounts}
      - {name}:/data
    healthcheck:
      <<: *health
      test: [CMD, python3, -IS, /opt/trilemma/ready.py, "{ports[1]}"]
"""


def _bind(source: str, file: str) -> str:
    """One file, read-only. In this form docker-compose 1.29 refuses to start where it is missing,
    instead of making a folder of its name."""
    target = f"{TESTNET_IN_CONTAINER}/{file}"
    return f'{{type: bind, source: "{source}", target: {target}, read_only: true}}'


def _dashboards(options: ComposeOptions) -> str:
    own = f"\n      - {options.targets}:{TARGETS_IN_PROMETHEUS}:ro" if options.targets else ""
    return f"""\
  prometheus:
    <<: *hardened
    profiles: [metrics]
    image: {PROMETHEUS_IMAGE}
    command: [--config.file=/etc/prometheus/prometheus.yml, --storage.tsdb.path=/prometheus]
    mem_limit: 1g
    memswap_limit: 1g
    ports: ["127.0.0.1:9090:9090"]
    volumes:
      - {options.deploy}/prometheus:/etc/prometheus:ro{own}
      - prometheus:/prometheus

  grafana:
    <<: *hardened
    profiles: [metrics]
    image: {GRAFANA_IMAGE}
    environment:
      GF_AUTH_ANONYMOUS_ENABLED: "true"
      GF_AUTH_DISABLE_LOGIN_FORM: "true"
      GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION: "true"
    mem_limit: 1g
    memswap_limit: 1g
    ports: ["127.0.0.1:3000:3000"]
    volumes:
      - {options.deploy}/grafana/provisioning:/etc/grafana/provisioning:ro
      - {options.deploy}/grafana/dashboards:/etc/grafana/dashboards:ro
      - grafana:/var/lib/grafana
"""
