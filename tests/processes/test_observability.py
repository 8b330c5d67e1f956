"""Metrics, health and logs of every process of a real cluster."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from cluster_world import ROOT, Cluster, SteadyTrader, eventually, running_cluster
from prometheus_client.parser import text_string_to_metric_families

from cluster.testnet import TARGETS_FILE, TestnetOptions
from net.metrics_table import PREFIX, UNMAPPED, exported_names, find_metric
from store.keyfiles import load_key

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

MOVING = {
    "sequencer-0": "ordered_actions_total log_height accepted_to_ordered_seconds_count",
    "execution-0": "executed_actions_total execution_height ordered_to_executed_seconds_count",
    "prover-0": "settled_actions_total executed_to_settled_seconds_count",
    "challenger-0": "challenger_checked_batches_total",
    "validator-0": "ledger_height ledger_settled_batch ledger_commit_seconds_count",
}
"""What trading moves, by process."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """All roles."""
    options = TestnetOptions(free_ports=True, traders=8, challengers=1, executions=2)
    async with running_cluster(tmp_path_factory.mktemp("observed"), options) as running:
        yield running


async def get(cluster: Cluster, name: str, path: str) -> tuple[int, str]:
    """Status and text of an answer."""
    url = f"http://{cluster.testnet.process(name).observe}{path}"
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientError as error:
        raise ConnectionError(str(error)) from error


async def samples(cluster: Cluster, name: str) -> dict[str, float]:
    """Every sample of a process, by its name without prefix, summed over labels."""
    status, text = await get(cluster, name, "/metrics")
    assert status == 200, text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.name.startswith(PREFIX), sample
            short = sample.name.removeprefix(PREFIX)
            found[short] = found.get(short, 0.0) + sample.value
    return found


async def ready(cluster: Cluster, name: str) -> bool:
    """Whether a process says that it keeps up."""
    return (await get(cluster, name, "/readyz"))[0] == 200


async def test_every_process_answers_and_maps_everything(cluster: Cluster) -> None:
    for entry in cluster.testnet.processes:
        await eventually(f"{entry.name} is ready", lambda entry=entry: ready(cluster, entry.name))
        assert (await get(cluster, entry.name, "/healthz")) == (200, "ok\n")
        found = await samples(cluster, entry.name)
        assert found[UNMAPPED.name] == 0, entry.name
        assert {PREFIX + name for name in found} <= exported_names(entry.role)
        for name in ("process_cpu_seconds_total", "process_open_fds"):
            assert found[name] > 0, (entry.name, name)
        for key, value in (await cluster.status(entry.name)).items():
            metric, _ = find_metric(entry.role, key)
            assert metric is not None, (entry.role, key)
            assert not metric.name or metric.number(value) is not None, (key, value)


async def test_a_testnet_takes_orders_to_break(cluster: Cluster) -> None:
    status, text = await get(cluster, "execution-0", "/faults")
    assert status == 200 and json.loads(text)["process"] == "execution-0"


async def test_metrics_move_with_trades(cluster: Cluster) -> None:
    before = {name: await samples(cluster, name) for name in MOVING}
    async with cluster.exchange() as exchange:
        trader = SteadyTrader(exchange, "trader-00")
        trader.start()
        try:
            for name, metrics in MOVING.items():
                for metric in metrics.split():

                    async def moved(name: str = name, metric: str = metric) -> bool:
                        trader.check()
                        return (await samples(cluster, name))[metric] > before[name].get(metric, 0)

                    await eventually(f"{metric} of {name} moves", moved)
        finally:
            await trader.stop()
    found = await samples(cluster, "execution-0")
    assert found["accounts"] > 8 and found["insurance_uusd"] >= 0
    assert found["money_conserved"] == 1 and found["bad_debt_uusd"] == 0
    assert (await samples(cluster, "sequencer-0"))["link_bytes_total"] > 1_000


ONCE_IT_HAPPENS = {"trilemma_peer_faults_total"}
"""Counters that come with the first event of their kind, with its reason as a label."""


async def test_processes_show_what_alerts_and_panels_ask_for(cluster: Cluster) -> None:
    shown: set[str] = set()
    for entry in cluster.testnet.processes:
        shown |= {PREFIX + name for name in await samples(cluster, entry.name)}
    deploy = ROOT / "deploy"
    texts = [(deploy / "prometheus" / "alerts.yml").read_text()]
    texts += [path.read_text() for path in (deploy / "grafana" / "dashboards").glob("*.json")]
    asked = set(re.findall(rf"\b{PREFIX}[a-z0-9_]+", "".join(texts)))
    assert len(asked) > 60
    assert asked - shown <= ONCE_IT_HAPPENS


async def test_prometheus_finds_every_process_by_its_name(cluster: Cluster) -> None:
    raw = (cluster.testnet.directory / TARGETS_FILE).read_text()
    found = {one["labels"]["process"]: one["targets"] for one in json.loads(raw)}
    assert found == {one.name: [one.observe] for one in cluster.testnet.processes}


async def test_every_kind_of_link_is_counted_both_ways(cluster: Cluster) -> None:
    kinds = {
        "validator-0": {"peers", "public"},
        "sequencer-0": {"public", "upstreams"},
        "execution-0": {"public", "upstreams"},
        "prover-0": {"public", "upstreams"},
        "challenger-0": {"public", "upstreams"},
    }
    for name, carried in kinds.items():
        await cluster.status(name)
        _, text = await get(cluster, name, "/metrics")
        families = {one.name: one for one in text_string_to_metric_families(text)}
        for what in ("bytes", "frames"):
            counts = {
                (one.labels["link"], one.labels["direction"]): one.value
                for one in families[f"{PREFIX}link_{what}"].samples
            }
            moved = {link for link, _ in counts if all(counts[link, way] for way in ("in", "out"))}
            assert moved == carried, (name, what, counts)


async def test_an_execution_node_that_no_sequencer_reaches_says_so(cluster: Cluster) -> None:
    async def unready() -> bool:
        status, text = await get(cluster, "execution-0", "/readyz")
        return status == 503 and "nothing was heard of the ordered log for" in text

    await eventually("execution-0 is ready", lambda: ready(cluster, "execution-0"))
    cluster.supervisor.send_signal("sequencer-0", signal.SIGSTOP)
    try:
        await eventually("execution-0 misses the log", unready)
        found = await samples(cluster, "execution-0")
        assert found["execution_log_silence_seconds"] > 10 and found["ready"] == 0
    finally:
        cluster.supervisor.send_signal("sequencer-0", signal.SIGCONT)
    await eventually("execution-0 hears it again", lambda: ready(cluster, "execution-0"))


async def test_a_prover_tells_of_execution_nodes_that_disagree(cluster: Cluster) -> None:
    liar = cluster.testnet.process("execution-1")
    path = cluster.testnet.config_path(liar.name)
    honest = path.read_text()

    async def begin(text: str) -> None:
        await cluster.supervisor.stop(liar.name)
        path.write_text(text)
        await cluster.supervisor.restart(liar.name)
        await cluster.supervisor.wait_ready(names=[liar.name])

    async def told() -> str:
        return str((await cluster.status("prover-0"))["disagreement"])

    assert await told() == ""
    await begin(f'byzantine = "lies"\n{honest}')
    async with cluster.exchange() as exchange:
        trader = await exchange.trader("trader-01")

        async def disagree() -> bool:
            await exchange.ledger.deposit(trader.key, 1_000_000)
            return liar.public in await told()

        await eventually("the prover names the nodes that disagree", disagree)
        status, text = await get(cluster, "prover-0", "/readyz")
        assert (status, text.strip()) == (200, f"ok: {await told()}")
        found = await samples(cluster, "prover-0")
        assert found["prover_executions_disagree"] == 1
        assert found["prover_execution_disagreements_total"] > 0
        assert cluster.log("prover-0").count("execution nodes disagree") == 1
        await begin(honest)

        async def agree() -> bool:
            return await told() == ""

        await eventually("it is held against the repaired one no more", agree)


async def test_without_a_quorum_validators_are_not_ready(cluster: Cluster) -> None:
    stopped = ["validator-2", "validator-3"]
    for name in stopped:
        await cluster.supervisor.stop(name)

    async def unready() -> bool:
        status, text = await get(cluster, "validator-0", "/readyz")
        return status == 503 and "no quorum" in text

    await eventually("validator-0 misses its quorum", unready)
    assert (await get(cluster, "validator-0", "/healthz"))[0] == 200
    for name in stopped:
        await cluster.supervisor.restart(name)
    for name in ("validator-0", *stopped):
        await eventually(f"{name} is ready again", lambda name=name: ready(cluster, name))


async def test_validators_that_hang_are_noticed_too(cluster: Cluster) -> None:
    """Their connections stand, but nothing comes."""
    hanging = ["validator-1", "validator-3"]
    for name in hanging:
        cluster.supervisor.send_signal(name, signal.SIGSTOP)
    try:

        async def unready() -> bool:
            status, text = await get(cluster, "validator-0", "/readyz")
            return status == 503 and "no quorum" in text

        await eventually("validator-0 sees that nobody answers", unready)
    finally:
        for name in hanging:
            cluster.supervisor.send_signal(name, signal.SIGCONT)
    await eventually("validator-0 is ready again", lambda: ready(cluster, "validator-0"))


async def test_logs_tell_who_and_nothing_secret(cluster: Cluster) -> None:
    secrets = _secrets(cluster.testnet.directory)
    assert len(secrets) > len(cluster.names)
    for name in cluster.names:
        text = cluster.log(name)
        assert f"node={name}" in text or f'"node":"{name}"' in text.replace(" ", ""), text[:500]
        for secret in secrets:
            assert secret not in text.lower(), f"{name} has written a key into its log"


def _secrets(directory: Path) -> set[str]:
    """The secret keys of the testnet, in the forms in which one might print them."""
    found: set[str] = set()
    for path in directory.rglob("*.key"):
        key = load_key(path)
        found |= {key.seed().hex(), repr(key.seed())[2:-1].lower()}
    return {one for one in found if len(one) >= 32}


async def test_a_client_may_not_hold_the_port(cluster: Cluster) -> None:
    """Garbage and connections that say nothing take nothing away from others."""
    host, _, port = cluster.testnet.process("execution-0").observe.rpartition(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    for _, writer in idle:
        writer.write(b"\x00\xff garbage\r\n\r\n")
    assert (await get(cluster, "execution-0", "/healthz"))[0] == 200
    for _, writer in idle:
        writer.close()
    assert json.dumps("Traceback") not in cluster.log("execution-0")
