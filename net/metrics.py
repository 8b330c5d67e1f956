"""Metrics of one process in Prometheus' form: its status values, histograms, links, the process.

Every status value is mapped by the tables of `net.metrics_table`; whatever has no place there is
counted in ``trilemma_unmapped_values``. Nothing is labelled with an id, and units are the base
units: seconds, bytes, micro-dollars (``_uusd``).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from net.metrics_table import (
    BUILD_INFO,
    DISK_FREE,
    HISTOGRAMS,
    LINK_BYTES,
    LINK_FRAMES,
    PREFIX,
    REJECTED,
    UNMAPPED,
    Histograms,
    Metric,
    find_metric,
)
from net.session import Session

StatusValues = Mapping[str, int | str]

T = TypeVar("T")

SCRAPE_COST = 20
"""A scrape's text is given again for so many times as long as it took to make: however often
somebody asks, the process has the rest of the time for its work."""


class Rarely(Generic[T]):
    """A value that takes time to compute: computed anew only after `times` as long as that took."""

    def __init__(
        self, compute: Callable[[], T], times: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._compute = compute
        self._times = times
        self._clock = clock
        self._found: list[T] = []
        self._due_ns = 0

    def __call__(self) -> T:
        began_ns = self._clock()
        if not self._found or began_ns >= self._due_ns:
            self._found[:] = [self._compute()]
            now_ns = self._clock()
            self._due_ns = now_ns + self._times * (now_ns - began_ns)
        return self._found[0]


class Histogram:
    """How often values fell below which bounds."""

    __slots__ = ("bounds", "counts", "spec", "total")

    def __init__(self, spec: Histograms) -> None:
        self.spec = spec
        self.bounds = spec.bounds
        self.counts = [0] * (len(spec.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, `count` times; what is below 0 (two clocks differ) counts as 0."""
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def family(self) -> HistogramMetricFamily:
        """As Prometheus takes it."""
        buckets, running = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            running += count
            buckets.append((bound, running))
        return HistogramMetricFamily(
            PREFIX + self.spec.name, self.spec.help, buckets=buckets, sum_value=self.total
        )


@dataclass(slots=True)
class _Counts:
    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0

    def add(self, session: Session, seen: _Counts) -> None:
        """Add what a session has carried since it was `seen`, and note that in `seen`."""
        for name in ("bytes_in", "bytes_out", "frames_in", "frames_out"):
            now = getattr(session, name)
            setattr(self, name, getattr(self, name) + now - getattr(seen, name))
            setattr(seen, name, now)


class Traffic:
    """Bytes and frames by kind of link, over sessions that come and go.

    `follow` names the sessions of a kind; `sample` has to be called now and then, and `ended` for a
    session that is gone, so that nothing of it is missed.
    """

    def __init__(self) -> None:
        self.totals: dict[str, _Counts] = {}
        self._sources: dict[str, Callable[[], Iterable[Session | None]]] = {}
        self._seen: dict[str, dict[Session, _Counts]] = {}

    def follow(self, kind: str, sessions: Callable[[], Iterable[Session | None]]) -> None:
        """Count the sessions that this gives (None: not connected) as links of a kind."""
        self._sources[kind] = sessions
        self.totals[kind] = _Counts()
        self._seen[kind] = {}

    def sample(self) -> None:
        """Count what was carried since the last time."""
        for kind, sessions in self._sources.items():
            before, total = self._seen[kind], self.totals[kind]
            now: dict[Session, _Counts] = {}
            for session in sessions():
                if session is not None:
                    now[session] = seen = before.get(session) or _Counts()
                    total.add(session, seen)
            self._seen[kind] = now

    def ended(self, kind: str, session: Session) -> None:
        """A session is gone: count the rest of it."""
        if kind in self._sources:
            self.totals[kind].add(session, self._seen[kind].pop(session, _Counts()))

    def families(self) -> Iterator[Family]:
        """As Prometheus takes them."""
        for metric, what in ((LINK_BYTES, "bytes"), (LINK_FRAMES, "frames")):
            family = CounterMetricFamily(
                _family_name(metric), metric.help, labels=["link", "direction"]
            )
            for kind, counts in self.totals.items():
                for direction in ("in", "out"):
                    family.add_metric([kind, direction], getattr(counts, f"{what}_{direction}"))
            yield family


class Metrics(Collector):
    """The metrics of one process of a role.

    `status` gives its status values; it is called at every scrape and has to be cheap. `rejected`
    are counts of refusals by code.
    """

    def __init__(
        self, role: str, status: Callable[[], StatusValues], rejected: Mapping[str, int]
    ) -> None:
        self._role = role
        self._status = status
        self._rejected = rejected
        self.traffic = Traffic()
        self.free_bytes: Callable[[], int] | None = None
        """Room on the disk, where there is one."""
        self._histograms = {
            spec.name: Histogram(spec) for spec in (*HISTOGRAMS[""], *HISTOGRAMS.get(role, ()))
        }
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self.registry)
        self._text = Rarely(lambda: generate_latest(self.registry), SCRAPE_COST)

    def histogram(self, name: str) -> Histogram:
        """A histogram of the role's table; raises `KeyError` for another."""
        return self._histograms[name]

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return self._text()

    def collect(self) -> Iterator[Family]:
        """Called by the registry, at every scrape."""
        yield self._build()
        if self.free_bytes is not None:
            yield GaugeMetricFamily(
                PREFIX + DISK_FREE.name, DISK_FREE.help, value=self.free_bytes()
            )
        self.traffic.sample()
        yield from self.traffic.families()
        refused = CounterMetricFamily(_family_name(REJECTED), REJECTED.help, labels=["code"])
        for code, count in sorted(self._rejected.items()):
            refused.add_metric([code], count)
        yield refused
        yield from self._of_status()
        for histogram in self._histograms.values():
            yield histogram.family()

    def _build(self) -> Family:
        labels = {"role": self._role, "version": package_version()}
        family = GaugeMetricFamily(PREFIX + BUILD_INFO.name, BUILD_INFO.help, labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        return family

    def _of_status(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        unmapped = 0
        for key, value in self._status().items():
            metric, label = find_metric(self._role, key)
            if metric is None:
                unmapped += 1
            elif metric.name:
                number = metric.number(value)
                if number is None:
                    unmapped += 1
                    continue
                family = families.get(metric.name)
                if family is None:
                    family = families[metric.name] = _family(metric)
                family.add_metric([label] if metric.label else [], number)  # type: ignore[attr-defined]
        yield from families.values()
        yield GaugeMetricFamily(PREFIX + UNMAPPED.name, UNMAPPED.help, value=unmapped)


def _family(metric: Metric) -> Family:
    labels = [metric.label] if metric.label else []
    if metric.counter:
        return CounterMetricFamily(_family_name(metric), metric.help, labels=labels)
    return GaugeMetricFamily(PREFIX + metric.name, metric.help, labels=labels)


def _family_name(metric: Metric) -> str:
    return PREFIX + metric.name.removesuffix("_total")


def package_version() -> str:
    """The version of this software, ``unknown`` where it runs without having been installed."""
    try:
        return version("trilemma")
    except PackageNotFoundError:
        return "unknown"
