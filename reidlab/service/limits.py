"""What a service takes at most."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of a request, and of all requests that are accepted at one time; see `conf/service`."""

    max_images: int = 64
    max_request_mib: float = 16
    max_megapixels: float = 25
    max_waiting: int = 64
    max_waiting_mib: float = 64
    timeout_s: float = 10


@dataclass
class Room:
    """The room that accepted requests take of their limits."""

    limits: Limits
    requests: int = field(default=0, init=False)
    size: int = field(default=0, init=False)  # in bytes

    def holds(self, size: int) -> bool:
        """Whether a request of so many bytes can be accepted now."""
        within = self.size + size <= self.limits.max_waiting_mib * MIB or not self.requests
        return self.requests < self.limits.max_waiting and within

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Count a request of so many bytes while the block lasts."""
        self.requests, self.size = self.requests + 1, self.size + size
        try:
            yield
        finally:
            self.requests, self.size = self.requests - 1, self.size - size
