"""The plan of a workflow: the messages that begin it, and the flows by which the others follow. All ids are made here.

One walk over the workflow places its calls and says which flow waits for which; after it, they become messages. Nothing
is sent before all of them could be made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import orjson

from fastq import _speedups
from fastq.backends import pushes
from fastq.batch import SIZE
from fastq.call import Call, id_of
from fastq.errors import ConfigurationError, NotSupported
from fastq.keys import Promised
from fastq.message import NO_EXTRAS, Extras, Message
from fastq.options import CallOptions, moment_us
from fastq.result import AsyncResult
from fastq.sealing import of_flow
from fastq.state import Flow
from fastq.systems import mask

from .taskset import Shape, TaskSetResult
from .then import Later, Then
from .work import Chain, Group, Signature, Workflow

if TYPE_CHECKING:
    from fastq.app import FastQ

_NO_OPTIONS: CallOptions = {}
_GIVEN = (Promised(),)  # what takes the place of a value that is not there yet, when arguments are checked


class Plan(NamedTuple):
    """What there is to do to begin a workflow, and to hold its end in the hand."""

    app: FastQ
    messages: Sequence[Message]  # what begins it
    flows: Sequence[Flow]
    ends: Sequence[Message]  # of the calls whose values are its value
    shape: Shape  # of its value
    group: bytes  # the id of the task-set that the ends are, if they are one

    def begin(self) -> AsyncResult[Any] | TaskSetResult[Any]:
        """Open the flows, then publish what begins: in this order, an end finds whoever waits for it."""
        app = self.app
        if self.flows:
            app.state.open_flows(self.flows, app.settings.workflow_expires_s)
        if self.shape is not None:
            app.backend.create_group(self.group, [message.id for message in self.ends])
        batch = None
        for at in range(0, len(self.messages), SIZE):
            batch = app._publish(self.messages[at : at + SIZE])  # noqa: SLF001 - the app and its workflows are one
        results = [AsyncResult.of(end, app, batch) for end in self.ends]
        if self.shape is None:
            return results[0]
        ignored = any(end.ignore_result for end in self.ends)
        return TaskSetResult.of(self.group, app, results, shape=self.shape, ignored=ignored)


def plan_of(workflow: Workflow[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan of a workflow; `args` and `kwargs` are for the calls that begin it.

    Raises ConfigurationError for a workflow that can't be, NotSupported if the backend keeps no results, TypeError for
    arguments that a task does not take, and EncodingError.
    """
    planner = _Planner(workflow.app)
    try:
        return planner.plan(*planner.place(workflow, _Source(args=args, kwargs=kwargs or {}), _NO_OPTIONS))
    except RecursionError:
        raise ConfigurationError("The workflow is nested too deeply") from None


# -- while it is planned ----------------------------------------------------------------------------------


class _Source(NamedTuple):
    """What the calls that begin a part are given before their own arguments."""

    given: bytes = b""
    failed: bytes = b""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}


@dataclass(slots=True, eq=False)
class _Call:
    """One call in its place."""

    signature: Signature[Any]
    source: _Source
    options: CallOptions
    id: bytes
    flows: list[bytes] = field(default_factory=list)  # that wait for its end
    begins: bool = False  # it is published when the workflow begins


#: What a part of a workflow comes to: the value of one call, or those of several, in a tuple.
_Ends: TypeAlias = _Call | tuple["_Ends", ...]


@dataclass(slots=True, eq=False)
class _Flow:
    """What waits for some calls to end, while it is collected what that is."""

    id: bytes
    needs: _Ends
    run: list[_Call] = field(default_factory=list)
    on_error: list[_Call] = field(default_factory=list)
    dropped: list[bytes] = field(default_factory=list)


class _Planner:
    """Walks over a workflow once. Its recursion is as deep as the workflow is nested; chains are not nested."""

    def __init__(self, app: FastQ) -> None:
        self._app = app
        self._calls: list[_Call] = []
        self._flows: list[_Flow] = []
        self._after: dict[_Ends, _Flow] = {}
        self._around: list[Workflow[Any]] = []  # what is being placed, from the outside in

    def place(self, work: Workflow[Any], source: _Source, inherited: CallOptions) -> tuple[list[_Call], _Ends]:
        """Place a part: return the calls that begin it, and what it comes to."""
        if any(work is each for each in self._around):
            raise ConfigurationError(f"The workflow has a cycle: {work!r:.100} follows from itself")
        self._around.append(work)
        options: CallOptions = {**inherited, **work.options} if inherited else work.options
        heads: list[_Call]
        ends: _Ends
        if isinstance(work, Signature):
            call = self._call(work, source, options)
            heads, ends = [call], call
        elif isinstance(work, Group):
            heads, ends = self._group(work, source, options)
        elif isinstance(work, Chain):
            heads, ends = self._chain(work, source, options)
        else:
            raise TypeError(f"{work!r:.60} is no workflow that can be planned")
        for callback in work.links:
            self._follow(ends, callback, _NO_OPTIONS)
        for callback in work.errbacks:
            self._catch(ends, callback)
        self._around.pop()
        return heads, ends

    def _call(self, signature: Signature[Any], source: _Source, options: CallOptions) -> _Call:
        if signature.task.app is not self._app:
            raise ConfigurationError(f"{signature.task.name} is a task of another app than the rest of the workflow")
        task_id = options.get("task_id")
        id = _speedups.new_id() if task_id is None else id_of(task_id)
        call = _Call(signature, _NOTHING if signature.immutable else source, options, id)
        self._calls.append(call)
        return call

    def _group(self, work: Group[Any], source: _Source, options: CallOptions) -> tuple[list[_Call], _Ends]:
        placed = [self.place(member, source, options) for member in work.members]
        return [head for heads, _ in placed for head in heads], tuple(ends for _, ends in placed)

    def _chain(self, work: Chain[Any], source: _Source, options: CallOptions) -> tuple[list[_Call], _Ends]:
        first, *others = work.parts
        heads, ends = self.place(first, source, options)
        inherited = _for_followers(options)
        for part in others:
            ends = self._follow(ends, part, inherited)
        return heads, ends

    def _follow(self, ends: _Ends, work: Workflow[Any], inherited: CallOptions) -> _Ends:
        """Place what runs when others have ended well, and return what it comes to."""
        flow = self._flow(ends)
        given = ends.id if isinstance(ends, _Call) else flow.id
        heads, ends = self.place(work, _Source(given=given), inherited)
        flow.run += heads
        return ends

    def _catch(self, ends: _Ends, work: Workflow[Any]) -> None:
        """Place what runs when one of others has not ended well."""
        flow = self._flow(ends)
        before = len(self._flows)
        heads, _ = self.place(work, _Source(failed=flow.id), _NO_OPTIONS)  # the worker knows whose failure it is
        flow.on_error += heads
        flow.dropped += [flow.id for flow in self._flows[before:]]

    def _flow(self, ends: _Ends) -> _Flow:
        """Return the flow that waits for these ends: one, whatever follows from them."""
        flow = self._after.get(ends)
        if flow is None:
            flow = self._after[ends] = _Flow(_speedups.new_id(), ends)
            self._flows.append(flow)
            for call in _leaves(ends):
                call.flows.append(flow.id)
        return flow

    # -- all is placed ------------------------------------------------------------------------------------

    def plan(self, heads: Sequence[_Call], ends: _Ends) -> Plan:
        """Make messages of the calls, and flows of the flows."""
        backend_url = self._app.settings.backend_url
        if self._flows and pushes(backend_url):
            raise NotSupported(
                f"What follows from tasks is given their results, and {mask(backend_url)!r} keeps none for others than "
                "callers: name a backend that does, as in backend='redis://…'"
            )
        if len({call.id for call in self._calls}) != len(self._calls):
            raise ConfigurationError("Two calls of the workflow have the same task_id")
        leaves = list(_leaves(ends))
        group = b"" if isinstance(ends, _Call) else _speedups.new_id()
        for call in heads:
            call.begins = True
        members = {call.id for call in leaves} if group else ()
        laters = {call.id: _later(call, group if call.id in members else b"") for call in self._calls}
        return Plan(
            self._app,
            [laters[call.id].message for call in heads],
            [self._finished(flow, laters) for flow in self._flows],
            [laters[call.id].message for call in leaves],
            _shape(ends),
            group,
        )

    def _finished(self, flow: _Flow, laters: Mapping[bytes, Later]) -> Flow:
        values = b""
        if any(call.source.given == flow.id for call in flow.run):  # and not the id of the one task that it needs
            values = orjson.dumps(_ids(flow.needs))
        then = Then(
            [laters[call.id] for call in flow.run], [laters[call.id] for call in flow.on_error], flow.dropped, values
        )
        sealed = self._app.settings.seals.seal(then.encode(), of_flow(flow.id))
        return Flow(flow.id, tuple(call.id for call in _leaves(flow.needs)), sealed)


_NOTHING = _Source()


def _later(call: _Call, group: bytes) -> Later:
    """Return a call's message. Raises what `Task.apply_async` raises."""
    signature, source, app = call.signature, call.source, call.signature.task.app
    task = signature.task
    if task.name not in app.tasks:
        raise ConfigurationError(f"{task.name} is not registered as a task of the app {app.name!r}")
    if task.options.unique is not None:
        raise ConfigurationError(f"{task.name} is unique, and calls of a workflow are not: let a task call it")
    options = call.options
    if call.flows:
        options = _kept(call)
    delay_us = expires_us = 0
    if not call.begins and options:
        options, delay_us, expires_us = _counted_later(options)
    args, kwargs = (*source.args, *signature.args), {**signature.kwargs, **source.kwargs}
    promised = (*_GIVEN, *args) if source.given or source.failed else args
    if signature.each:
        _check_each(signature, promised, kwargs)
        chosen = task.options.for_call(app.settings, options) if options else task.options
        made = Call(task.name, args, kwargs, chosen, options)
    else:
        made = task._call(promised, kwargs, options)._replace(args=args)  # noqa: SLF001 - tasks and calls are one
    extras = NO_EXTRAS
    if group or call.flows or promised is not args or signature.each:
        extras = Extras(
            group=group, flows=tuple(call.flows), given=source.given, failed=source.failed, each=signature.each
        )
    message = made.message(app.settings, extras, app._reply_to)._replace(id=call.id)  # noqa: SLF001 - one, too
    if not call.begins:  # workers publish it, who know no middleware
        (message,) = app._prepared([message])  # noqa: SLF001 - as above
        message = app.settings.packing.packed(message)  # for the shared state, too
    return Later(message, delay_us, expires_us)


def _kept(call: _Call) -> CallOptions:
    """Return the options of a call that others wait for: it keeps its result, whose value they are given."""
    name = call.signature.task.name
    if call.options.get("ignore_result"):
        raise ConfigurationError(f"{name} is told to ignore its result, but others wait for it")
    return {**call.options, "ignore_result": False} if call.signature.task.options.ignore_result else call.options


def _for_followers(options: CallOptions) -> CallOptions:
    """Return what options of a whole say of the calls that do not begin it."""
    if options.keys().isdisjoint(("countdown", "eta", "task_id")):
        return options
    kept = {name: value for name, value in options.items() if name not in ("countdown", "eta", "task_id")}
    return cast("CallOptions", kept)


def _counted_later(options: CallOptions) -> tuple[CallOptions, int, int]:
    """Take out what counts from when the call is published: `countdown`, and `expires` in seconds."""
    left: CallOptions = {**options}
    delay_us = expires_us = 0
    if left.get("countdown") and left.get("eta") is None:
        delay_us = moment_us("countdown", left.pop("countdown"), 0)
    if left.get("expires") and not isinstance(left["expires"], datetime):
        expires_us = moment_us("expires", left.pop("expires"), 0)
    return left, delay_us, expires_us


def _check_each(signature: Signature[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError unless the one argument is a list of what the task takes."""
    name = f"{signature.task.name}.each"
    if len(args) != 1 or kwargs:
        raise TypeError(f"{name} takes a list of argument lists and nothing else")
    for item in () if isinstance(args[0], Promised) else args[0]:
        signature.task._checked(item, {})  # noqa: SLF001 - ours


def _leaves(ends: _Ends) -> Iterator[_Call]:
    if isinstance(ends, _Call):
        yield ends
    else:
        for each in ends:
            yield from _leaves(each)


def _ids(ends: _Ends) -> Any:
    return ends.id.hex() if isinstance(ends, _Call) else [_ids(each) for each in ends]


def _shape(ends: _Ends) -> Shape:
    return None if isinstance(ends, _Call) else tuple(_shape(each) for each in ends)
