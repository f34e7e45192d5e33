"""Retries: whether and when a task that failed is tried again; pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .backoff import longest_pause, pause
from .errors import ConfigurationError, Retry


@dataclass(frozen=True)
class RetryPolicy:
    """How a task is tried again. Times are in seconds.

    With back-off, the n-th retry waits for a random time up to `backoff_s` times two to the power of n - 1, and up to
    `backoff_max_s`: see `fastq.backoff`.
    """

    most: int | None = 3  # None: as often as it takes
    delay_s: float = 180.0  # where neither the call of `retry` nor a back-off says otherwise
    backoff_s: float = 0.0  # 0: none
    backoff_max_s: float = 600.0
    jitter: bool = True
    on: tuple[type[BaseException], ...] = ()  # these are tried again without being asked for
    never_on: tuple[type[BaseException], ...] = ()  # but not these

    def allows(self, attempt: int, most: int | None = None) -> bool:
        """Return whether another try may follow the `attempt`-th, from 1; `most` is in place of the policy's own."""
        limit = self.most if most is None else most
        return limit is None or attempt <= limit

    def retries_on(self, error: BaseException) -> bool:
        """Return whether an exception leads to another try by itself."""
        return isinstance(error, self.on) and not isinstance(error, (*self.never_on, Retry))

    def delay_after(self, attempt: int) -> float:
        """Return for how long the next try waits, after the `attempt`-th."""
        if not self.backoff_s:
            return self.delay_s
        return (pause if self.jitter else longest_pause)(attempt, self.backoff_s, self.backoff_max_s)


def policy_of(
    *,
    max_retries: int | None = 3,
    default_retry_delay: float = 180.0,
    autoretry_for: Sequence[type[BaseException]] = (),
    dont_autoretry_for: Sequence[type[BaseException]] = (),
    retry_backoff: bool | float = False,
    retry_backoff_max: float = 600.0,
    retry_jitter: bool = True,
) -> RetryPolicy:
    """Return the policy that a task's options describe. Raises ConfigurationError."""
    if max_retries is not None and (type(max_retries) is not int or max_retries < 0):
        raise ConfigurationError(f"max_retries is {max_retries!r}; it takes 0 or more, or None for no end")
    for what, value in (("default_retry_delay", default_retry_delay), ("retry_backoff_max", retry_backoff_max)):
        _seconds(what, value)
    for what, kinds in (("autoretry_for", autoretry_for), ("dont_autoretry_for", dont_autoretry_for)):
        if not isinstance(kinds, (tuple, list)) or not all(_is_exception(kind) for kind in kinds):
            raise ConfigurationError(f"{what} is {kinds!r:.300}; it takes a tuple of exception types")
    return RetryPolicy(
        max_retries,
        default_retry_delay,
        float(retry_backoff) if isinstance(retry_backoff, bool) else _seconds("retry_backoff", retry_backoff),
        retry_backoff_max,
        retry_jitter,
        tuple(autoretry_for),
        tuple(dont_autoretry_for),
    )


def _seconds(what: str, value: float) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise ConfigurationError(f"{what} is {value!r}; it takes seconds, 0 or more")
    return value


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)
