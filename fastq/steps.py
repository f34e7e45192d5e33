"""Steps: parts of a task whose values are kept, so that another attempt goes on behind the last finished one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from .encoder import decode, encode
from .errors import ConfigurationError, TaskError

if TYPE_CHECKING:
    from .current import Run
    from .outcome import Outcome

R = TypeVar("R")

_NOTHING = object()
_MARGIN_S = 120.0  # how long steps are kept beyond a lease when their task has ended


class Steps:
    """The finished steps of a task, as one attempt sees them.

    They are facts of the family ``step:ID``, each kept only if there is none of its name: an attempt whose lease was
    lost can't replace what a later one goes by. When the task has ended they are kept for a little longer, because a
    worker may die before the end is settled; then they expire.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._family = f"step:{run.message.uuid}"
        self._kept: dict[str, bytes] | None = None
        self._finished_here: set[str] = set()
        run.finally_call(self._ended, blocks=True)

    def load(self) -> dict[str, bytes]:
        """Return what is kept, by name; in one round trip for all the steps of an attempt. Raises StateUnavailable."""
        if self._kept is None:
            self._kept = self._run.app.state.find(self._family)
        return self._kept

    def begin(self, name: str) -> Any:
        """Return the value of a step; `_NOTHING` if it is not finished. Raises TaskError if it was had before."""
        given: object = name
        if not isinstance(given, str) or not 0 < len(given) <= 255:
            raise TypeError(f"A step has the name {name!r:.300}; it takes text of up to 255 characters")
        if name in self._finished_here:
            raise TaskError(
                f"The step {name!r} was finished in this attempt already: give each its own name, as in f'page-{{n}}'"
            )
        value = self.load().get(name)
        if value is None:
            return _NOTHING
        self._finished_here.add(name)
        return self._decoded(name, value)

    def finish(self, name: str, value: Any) -> Any:
        """Keep the value of a step, and return it as another attempt would find it.

        Raises EncodingError, ConfigurationError if it is over `max_step_bytes`, StateUnavailable.
        """
        run = self._run
        serializer, settings = run.task.options.serializer, run.app.settings
        what = f"The value of the step {name!r} of {run.message.task}"
        body = encode(value, serializer, what, (), settings.max_depth, run.task.options.secret)
        if len(body) > settings.max_step_bytes:
            raise ConfigurationError(
                f"The value of the step {name!r} of {run.message.task} has {len(body)} bytes; max_step_bytes is "
                f"{settings.max_step_bytes}: put it where files belong, and save where that is"
            )
        body, content_type = settings.packing.pack(body, serializer.content_type, self._whose(name))
        packed = content_type.encode() + b"\n" + body
        other = run.app.state.put_new(self._family, name, packed, settings.result_expires_s)
        kept = packed if other is None else other
        self.load()[name] = kept
        self._finished_here.add(name)
        return self._decoded(name, kept)

    def _decoded(self, name: str, packed: bytes) -> Any:
        settings = self._run.app.settings
        said, _, body = packed.partition(b"\n")
        body, content_type = settings.packing.unpack(body, said.decode(), self._whose(name))
        return decode(body, content_type, settings.accept, settings.max_depth)

    def _whose(self, name: str) -> bytes:
        """Return what binds the value of a step to its place."""
        return b"step\0" + self._run.message.id + name.encode()

    def _ended(self, outcome: Outcome) -> None:
        if outcome.state.terminal and self._kept:
            settings = self._run.app.settings
            expires_s = min(settings.result_expires_s, settings.lease_s + _MARGIN_S)
            self._run.app.state.put(self._family, self._kept, expires_s)


class Step:
    """One step, for ``with``, and for ``async with`` in a coroutine: a block that ends normally has finished it."""

    def __init__(self, steps: Steps, name: str) -> None:
        self.name = name
        self.done = False  # whether an earlier attempt has finished it; then the block has nothing to do
        self._steps = steps
        self._value: Any = _NOTHING

    @property
    def value(self) -> Any:
        """What was saved, in this attempt or an earlier one. Raises TaskError if nothing was."""
        if self._value is _NOTHING:
            raise TaskError(f"The step {self.name!r} is not done, and nothing was saved: see `done` and `save`")
        return self._value

    def save(self, value: Any) -> None:
        """Give the step a value, which is kept when the block ends; a step without one has the value None."""
        if self.done:
            raise TaskError(f"The step {self.name!r} was done in an earlier attempt, and its value stays")
        self._value = value

    def __enter__(self) -> Step:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        self._value = self._steps.begin(self.name)
        self.done = self._value is not _NOTHING
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self.done:
            self._value = self._steps.finish(self.name, None if self._value is _NOTHING else self._value)

    async def __aenter__(self) -> Step:  # noqa: PYI034
        await _in_thread(self._steps.load)
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await _in_thread(lambda: self.__exit__(kind))


def computed(steps: Steps, name: str, function: Callable[[], Any]) -> Any:
    """Return the value of a step: what is kept, or else what the function returns; a coroutine for a coroutine."""
    import inspect

    inner = getattr(function, "func", function)
    if inspect.iscoroutinefunction(inner):
        return _computed_later(steps, name, function)
    value = steps.begin(name)
    return steps.finish(name, function()) if value is _NOTHING else value


async def _computed_later(steps: Steps, name: str, function: Callable[[], Coroutine[Any, Any, R]]) -> R:
    await _in_thread(steps.load)
    value: R = steps.begin(name)
    if value is not _NOTHING:
        return value
    made = await function()
    kept: R = await _in_thread(lambda: steps.finish(name, made))
    return kept


async def _in_thread(function: Callable[[], R]) -> R:
    """Do what may wait for the state without halting the event loop."""
    import asyncio

    return await asyncio.to_thread(function)
