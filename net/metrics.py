"""Metrics of one process in Prometheus' form: its status values, histograms, links, the process.

Every status value is mapped by the tables of `net.metrics_table`; whatever has no place there is
counted in ``trilemma_unmapped_values``. Nothing is labelled with an id, and units are the base
units: seconds, bytes, micro-dollars (``_uusd``).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
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
    READY,
    REJECTED,
    UNMAPPED,
    Histograms,
    Metric,
    find_metric,
)
from net.traffic import traffic

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
        self.free_bytes: Callable[[], int] | None = None
        """Room on the disk, where there is one."""
        self.trouble: Callable[[], str] | None = None
        """Why the process does not serve or keep up, where somebody asks; empty where it does."""
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
        if self.trouble is not None:
            yield GaugeMetricFamily(PREFIX + READY.name, READY.help, value=not self.trouble())
        yield from _traffic_families()
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


def _traffic_families() -> Iterator[Family]:
    totals = traffic.totals()
    for metric, what in ((LINK_BYTES, "bytes"), (LINK_FRAMES, "frames")):
        family = CounterMetricFamily(
            _family_name(metric), metric.help, labels=["link", "direction"]
        )
        for kind, counts in totals.items():
            for direction in ("in", "out"):
                family.add_metric([kind, direction], counts[f"{what}_{direction}"])
        yield family


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
