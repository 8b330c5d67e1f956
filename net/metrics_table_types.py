"""What an entry in the tables of metrics is."""

from __future__ import annotations

from dataclasses import dataclass

LATENCY = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Bounds in seconds of what takes from milliseconds to a minute."""

SETTLEMENT = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Bounds in seconds of what takes seconds."""

FINALITY = (
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0,
    86400.0, 604800.0,
)  # fmt: skip
"""Bounds in seconds of what takes up to a week."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric made of a status value; `name` has no prefix, and is empty where none is made.

    `parts` of the status value make one unit. With a `label` the value stands under its value
    `value`, or, where that is empty, under the rest of the status value's name. With `text` it says
    whether a text is there.
    """

    name: str
    help: str
    counter: bool = False
    label: str = ""
    value: str = ""
    parts: int = 1
    text: bool = False

    @property
    def kind(self) -> str:
        """Prometheus' word for it."""
        return "counter" if self.counter else "gauge"

    def number(self, value: int | str) -> float | None:
        """The status value as a number; None where it is none."""
        if self.text:
            return float(bool(value))
        if isinstance(value, str):
            return {"yes": 1.0, "no": 0.0}.get(value)
        return value / self.parts


@dataclass(frozen=True, slots=True)
class Histograms:
    """A histogram; `name` without prefix, `bounds` ascending."""

    name: str
    help: str
    bounds: tuple[float, ...]


Table = dict[str, Metric]
"""Metrics by the name of the status value. A name with ``*`` at its end stands for all that begin
so."""

NO_METRIC = Metric("", "")
"""A status value that is no metric."""


def gauge(name: str, text: str) -> Metric:
    """A value that goes up and down."""
    return Metric(name, text)


def counter(name: str, text: str) -> Metric:
    """A count that only grows while the process lives."""
    return Metric(name, text, counter=True)


def millis(name: str, text: str) -> Metric:
    """A status value in milliseconds, shown in seconds."""
    return Metric(name, text, parts=1000)


CERTIFICATE_END = gauge(
    "certificate_expires_timestamp_seconds",
    "When the certificate on links with members expires, since 1970.",
)


def labelled(name: str, label: str, value: str, text: str, *, count: bool = False) -> Metric:
    """One of several values of a metric; `value` empty: the rest of the status value's name."""
    return Metric(name, text, counter=count, label=label, value=value)
