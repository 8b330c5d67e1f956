"""How fast clients of a public port may ask: token buckets of sessions and of addresses.

Whoever has used up what is his is not refused but waited for: his connection is not read for as
long as his debt takes, so that nothing is lost and an honest client only slows down. Only new
connections are turned away. (Turner, "New directions in communications", 1986: the leaky bucket.)
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from store.client_limits import ClientLimits

HOSTS_MAX = 4_096
"""Addresses whose use is remembered; beyond them the one longest unheard of is forgotten."""

DEBT_S_MAX = 10.0
"""Nobody is left unread for longer at a stretch."""


class Bucket:
    """A token bucket: fills with `rate` tokens a second up to `burst`. Rate 0: has no bottom."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._at = now_s

    def _fill(self, now_s: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now_s - self._at) * self._rate)
        self._at = now_s

    def charge(self, count: float, now_s: float) -> float:
        """Take tokens that were used already; how many seconds the debt takes, 0 without one."""
        if not self._rate:
            return 0.0
        self._fill(now_s)
        self._tokens = max(self._tokens - count, -self._rate * DEBT_S_MAX)
        return max(0.0, -self._tokens / self._rate)

    def take(self, now_s: float) -> bool:
        """Take one token, if there is one."""
        if not self._rate:
            return True
        self._fill(now_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Host:
    """The buckets that all sessions of an address share."""

    __slots__ = ("busy", "bytes", "connections", "requests")

    def __init__(self, limits: ClientLimits, now_s: float) -> None:
        burst_s = limits.burst_s
        # Whoever starts again, or a load generator, comes with all of its sessions at once.
        at_once = max(burst_s * limits.host_connections_per_s, 2 * limits.sessions_of_host)
        self.requests = _bucket(limits.host_requests_per_s, burst_s, now_s)
        self.bytes = _bucket(limits.host_bytes_per_s, burst_s, now_s)
        share = limits.host_busy_ppm / 1_000_000
        self.busy = Bucket(share, share * burst_s, now_s)
        self.connections = Bucket(limits.host_connections_per_s, at_once, now_s)


class SessionPace:
    """What one session may send. `charge` tells for how many seconds it should not be read."""

    __slots__ = ("_bytes", "_host", "_requests", "_seen_bytes")

    def __init__(self, limits: ClientLimits, host: _Host, now_s: float) -> None:
        self._host = host
        self._requests = _bucket(limits.requests_per_s, limits.burst_s, now_s)
        self._bytes = _bucket(limits.bytes_per_s, limits.burst_s, now_s)
        self._seen_bytes = 0

    def charge(self, requests: int, bytes_in: int, now_s: float) -> float:
        """Requests came; the session has received `bytes_in` bytes by now."""
        size, self._seen_bytes = bytes_in - self._seen_bytes, bytes_in
        return max(
            self._requests.charge(requests, now_s),
            self._bytes.charge(size, now_s),
            self._host.requests.charge(requests, now_s),
            self._host.bytes.charge(size, now_s),
        )

    def worked(self, busy_s: float, now_s: float) -> float:
        """Handling requests of the session took so many seconds; like `charge`."""
        return self._host.busy.charge(busy_s, now_s)


class Pacing:
    """The pace of everybody at one public port. `clock` gives seconds that only go forward."""

    def __init__(self, limits: ClientLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def _host(self, address: str) -> _Host:
        name = address_group(address)
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(self._limits, self._clock())
            if len(self._hosts) > HOSTS_MAX:
                self._hosts.popitem(last=False)
        else:
            self._hosts.move_to_end(name)
        return host

    def connects(self, address: str) -> bool:
        """Whether this address may open a connection now."""
        return self._host(address).connections.take(self._clock())

    def session(self, address: str) -> SessionPace:
        """The pace of a new session of this address."""
        return SessionPace(self._limits, self._host(address), self._clock())

    def now_s(self) -> float:
        """The clock, for `SessionPace.charge`."""
        return self._clock()


def _bucket(rate: int, burst_s: int, now_s: float) -> Bucket:
    return Bucket(rate, rate * burst_s, now_s)


def address_group(address: str) -> str:
    """What is one party: an IPv4 address, or an IPv6 network of 64 bits, which one customer has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
