"""The limits of a service."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MIB = 1 << 20
LONGEST_LENGTH = 20  # digits of a Content-Length


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

    def refusal(self, length: str) -> tuple[int, str] | None:
        """Why a request whose Content-Length is this text can't be accepted now, with its status; None where it can."""
        if not length.isdecimal():
            return 411, "give a Content-Length"
        if len(length) > LONGEST_LENGTH or (size := int(length)) > self.limits.max_request_mib * MIB:
            return 413, f"more than {self.limits.max_request_mib:g} MiB; send fewer or smaller images"
        full = self.requests and self.size + size > self.limits.max_waiting_mib * MIB
        if full or self.requests >= self.limits.max_waiting:
            return 429, "too many requests wait; try again later"
        return None

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Count a request of so many bytes while the block lasts."""
        self.requests, self.size = self.requests + 1, self.size + size
        try:
            yield
        finally:
            self.requests, self.size = self.requests - 1, self.size - size
