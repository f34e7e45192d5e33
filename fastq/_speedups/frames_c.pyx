# cython: language_level=3, boundscheck=False, wraparound=False
"""The two binary frames and time-ordered ids, compiled: the contracts of `frames_py` and `ids_py`."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from "Python.h":
    uint64_t PyLong_AsUnsignedLongLong(object) except? <uint64_t>-1

cdef extern from "pthread.h" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)

cdef extern from "frames.h" nogil:
    const uint64_t FQ_CALL_HEADER, FQ_END_HEADER, FQ_MAX_NAME, FQ_MAX_FRAME, FQ_VERSION

    ctypedef enum fq_flaw:
        FQ_SOUND, FQ_SHORT, FQ_ALIEN, FQ_OTHER_VERSION, FQ_BAD_PRIORITY, FQ_NO_ATTEMPT, FQ_BAD_NAMES, FQ_RESERVED_BITS
        FQ_BAD_LENGTH

    ctypedef struct fq_call:
        uint64_t enqueued_at, eta, expires, reply_to
        uint32_t attempt, extras_size, body_size
        uint16_t crashes, queue_size, name_size
        uint8_t version, flags, priority, content
        uint8_t id[16]

    ctypedef struct fq_end:
        uint64_t started_at, finished_at, due
        uint32_t attempt, body_size
        uint8_t version, state, content, name_size
        uint8_t id[16]
        uint8_t group[16]

    ctypedef struct fq_ids:
        uint64_t random[4]
        uint64_t millisecond
        bint seeded

    void fq_write_call(uint8_t *at, const fq_call *call)
    void fq_write_end(uint8_t *at, const fq_end *end)
    fq_flaw fq_read_call(const uint8_t *at, uint64_t size, fq_call *call, uint64_t *promised)
    fq_flaw fq_read_end(const uint8_t *at, uint64_t size, fq_end *end, uint64_t *promised)
    void fq_next_id(fq_ids *ids, uint8_t *id)


MAX_NAME = FQ_MAX_NAME
MAX_FRAME = FQ_MAX_FRAME
CALL_HEADER = FQ_CALL_HEADER
END_HEADER = FQ_END_HEADER


# -- calls ------------------------------------------------------------------------------------------


def pack_call(
    bytes id not None,
    str name not None,
    str queue not None,
    bytes body not None,
    content,
    flags,
    priority,
    enqueued_at,
    eta,
    expires,
    reply_to,
    attempt,
    crashes,
    bytes extras not None,
):
    """Return the frame of one call. Raises ValueError for a field that does not fit its place."""
    cdef fq_call call
    cdef Py_ssize_t name_size, queue_size
    cdef const char *name_utf8 = short_utf8(name, "name", &name_size)
    cdef const char *queue_utf8 = short_utf8(queue, "queue", &queue_size)
    if PyBytes_GET_SIZE(id) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(id)}")
    call.priority = <uint8_t>number(priority, 255)
    if call.priority > 9:
        raise ValueError(f"priority {priority} is outside 0 to 9")
    call.attempt = <uint32_t>number(attempt, <uint32_t>-1)
    if not call.attempt:
        raise ValueError("attempt counts from 1")
    cdef uint64_t size = FQ_CALL_HEADER + name_size + queue_size + PyBytes_GET_SIZE(extras) + PyBytes_GET_SIZE(body)
    if size > FQ_MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
    call.flags = <uint8_t>number(flags, 255)
    call.content = <uint8_t>number(content, 255)
    call.enqueued_at = number(enqueued_at, <uint64_t>-1)
    call.eta = number(eta, <uint64_t>-1)
    call.expires = number(expires, <uint64_t>-1)
    call.reply_to = number(reply_to, <uint64_t>-1)
    call.crashes = <uint16_t>number(crashes, <uint16_t>-1)
    call.name_size = <uint16_t>name_size
    call.queue_size = <uint16_t>queue_size
    call.extras_size = <uint32_t>PyBytes_GET_SIZE(extras)
    call.body_size = <uint32_t>PyBytes_GET_SIZE(body)
    memcpy(call.id, PyBytes_AS_STRING(id), 16)

    frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(frame)
    fq_write_call(at, &call)
    at += FQ_CALL_HEADER
    memcpy(at, name_utf8, name_size)
    at += name_size
    memcpy(at, queue_utf8, queue_size)
    at += queue_size
    memcpy(at, PyBytes_AS_STRING(extras), call.extras_size)
    at += call.extras_size
    memcpy(at, PyBytes_AS_STRING(body), call.body_size)
    return frame


def unpack_call(bytes frame not None):
    """Return the fields of a call's frame, in the order of `pack_call`. Raises ValueError."""
    cdef fq_call call
    cdef uint64_t promised
    cdef const char *at = PyBytes_AS_STRING(frame)
    cdef fq_flaw flaw = fq_read_call(<const uint8_t *>at, PyBytes_GET_SIZE(frame), &call, &promised)
    if flaw != FQ_SOUND:
        raise ValueError(words_for_call(flaw, &call, promised, len(frame)))
    cdef const char *name = at + FQ_CALL_HEADER
    cdef const char *queue = name + call.name_size
    cdef const char *extras = queue + call.queue_size
    return (
        PyBytes_FromStringAndSize(<const char *>call.id, 16),
        PyUnicode_DecodeUTF8(name, call.name_size, NULL),
        PyUnicode_DecodeUTF8(queue, call.queue_size, NULL),
        PyBytes_FromStringAndSize(extras + call.extras_size, call.body_size),
        call.content, call.flags, call.priority, call.enqueued_at, call.eta, call.expires, call.reply_to,
        call.attempt, call.crashes,
        PyBytes_FromStringAndSize(extras, call.extras_size),
    )


def glance_call(bytes frame not None):
    """Return name, content code, flags and body of a call, None for one with extras. Raises ValueError.

    What is not returned is not looked at: a queue that is not UTF-8 is left to `unpack_call`.
    """
    cdef fq_call call
    cdef uint64_t promised
    cdef const char *at = PyBytes_AS_STRING(frame)
    cdef fq_flaw flaw = fq_read_call(<const uint8_t *>at, PyBytes_GET_SIZE(frame), &call, &promised)
    if flaw != FQ_SOUND:
        raise ValueError(words_for_call(flaw, &call, promised, len(frame)))
    if call.extras_size:
        return None
    cdef const char *name = at + FQ_CALL_HEADER
    return (
        PyUnicode_DecodeUTF8(name, call.name_size, NULL), call.content, call.flags,
        PyBytes_FromStringAndSize(name + call.name_size + call.queue_size, call.body_size),
    )


cdef str words_for_call(fq_flaw flaw, const fq_call *call, uint64_t promised, size):
    if flaw == FQ_SHORT:
        return f"a call has at least {CALL_HEADER} bytes, not {size}"
    if flaw == FQ_ALIEN:
        return "the first two bytes are not a call's"
    if flaw == FQ_OTHER_VERSION:
        return f"version {call.version} of the envelope is not known here (known: {FQ_VERSION})"
    if flaw == FQ_BAD_PRIORITY:
        return f"priority {call.priority} is outside 0 to 9"
    if flaw == FQ_NO_ATTEMPT:
        return "attempt counts from 1"
    if flaw == FQ_BAD_NAMES:
        return f"name and queue have 1 to {MAX_NAME} bytes, not {call.name_size} and {call.queue_size}"
    return f"the header promises {promised} bytes, the frame has {size}"


# -- ends -------------------------------------------------------------------------------------------


def pack_end(
    bytes id not None,
    state,
    attempt,
    content,
    str content_name not None,
    bytes body not None,
    bytes group not None,
    started_at,
    finished_at,
    due,
):
    """Return the frame of how a call ended; ``group`` is empty or 16 bytes. Raises ValueError."""
    cdef fq_end end
    cdef Py_ssize_t name_size
    cdef const char *name = PyUnicode_AsUTF8AndSize(content_name, &name_size)
    cdef Py_ssize_t group_size = PyBytes_GET_SIZE(group)
    if PyBytes_GET_SIZE(id) != 16 or (group_size != 0 and group_size != 16):
        raise ValueError(f"an id has 16 bytes, a group 16 or none, not {len(id)} and {len(group)}")
    cdef uint64_t size = FQ_END_HEADER + name_size + PyBytes_GET_SIZE(body)
    if size > FQ_MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes is over {MAX_FRAME}")
    if name_size > 255:
        raise ValueError(f"a number does not fit its field: {name_size} is not in 0 to 255")
    end.state = <uint8_t>number(state, 255)
    end.content = <uint8_t>number(content, 255)
    end.name_size = <uint8_t>name_size
    end.started_at = number(started_at, <uint64_t>-1)
    end.finished_at = number(finished_at, <uint64_t>-1)
    end.due = number(due, <uint64_t>-1)
    end.attempt = <uint32_t>number(attempt, <uint32_t>-1)
    end.body_size = <uint32_t>PyBytes_GET_SIZE(body)
    memcpy(end.id, PyBytes_AS_STRING(id), 16)
    memcpy(end.group, PyBytes_AS_STRING(group) if group_size else NO_GROUP, 16)

    frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(frame)
    fq_write_end(at, &end)
    memcpy(at + FQ_END_HEADER, name, name_size)
    memcpy(at + FQ_END_HEADER + name_size, PyBytes_AS_STRING(body), end.body_size)
    return frame


def pack_answer(bytes frame not None, state, content, bytes body not None, started_at, finished_at):
    """Return the frame of how the call in `frame` ended, one of no group. Raises ValueError.

    Of the call its header is read, and no more.
    """
    cdef fq_call call
    cdef fq_end end
    cdef uint64_t promised
    cdef fq_flaw flaw = fq_read_call(
        <const uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), &call, &promised
    )
    if flaw != FQ_SOUND:
        raise ValueError(words_for_call(flaw, &call, promised, len(frame)))
    cdef uint64_t size = FQ_END_HEADER + PyBytes_GET_SIZE(body)
    if size > FQ_MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes is over {MAX_FRAME}")
    end.state = <uint8_t>number(state, 255)
    end.content = <uint8_t>number(content, 255)
    end.name_size = 0
    end.started_at = number(started_at, <uint64_t>-1)
    end.finished_at = number(finished_at, <uint64_t>-1)
    end.due = 0
    end.attempt = call.attempt
    end.body_size = <uint32_t>PyBytes_GET_SIZE(body)
    memcpy(end.id, call.id, 16)
    memcpy(end.group, NO_GROUP, 16)
    answer = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(answer)
    fq_write_end(at, &end)
    memcpy(at + FQ_END_HEADER, PyBytes_AS_STRING(body), end.body_size)
    return answer


def unpack_end(bytes frame not None):
    """Return the fields of an end's frame, in the order of `pack_end`. Raises ValueError."""
    cdef fq_end end
    cdef uint64_t promised
    cdef const char *at = PyBytes_AS_STRING(frame)
    cdef fq_flaw flaw = fq_read_end(<const uint8_t *>at, PyBytes_GET_SIZE(frame), &end, &promised)
    if flaw != FQ_SOUND:
        raise ValueError(words_for_end(flaw, &end, promised, len(frame)))
    cdef const char *name = at + FQ_END_HEADER
    group = PyBytes_FromStringAndSize(<const char *>end.group, 16)
    return (
        PyBytes_FromStringAndSize(<const char *>end.id, 16),
        end.state, end.attempt, end.content,
        PyUnicode_DecodeUTF8(name, end.name_size, NULL),
        PyBytes_FromStringAndSize(name + end.name_size, end.body_size),
        b"" if group == NO_GROUP_BYTES else group,
        end.started_at, end.finished_at, end.due,
    )


cdef str words_for_end(fq_flaw flaw, const fq_end *end, uint64_t promised, size):
    if flaw == FQ_SHORT:
        return f"an end has at least {END_HEADER} bytes, not {size}"
    if flaw == FQ_ALIEN:
        return "the first two bytes are not an end's"
    if flaw == FQ_OTHER_VERSION:
        return f"version {end.version} of an end is not known here (known: {FQ_VERSION})"
    if flaw == FQ_RESERVED_BITS:
        return "reserved bits are set"
    return f"the header promises {promised} bytes, the frame has {size}"


cdef bytes NO_GROUP_BYTES = bytes(16)
cdef char *NO_GROUP = NO_GROUP_BYTES


# -- fields -----------------------------------------------------------------------------------------


cdef const char *short_utf8(str text, str what, Py_ssize_t *size) except NULL:
    cdef const char *utf8 = PyUnicode_AsUTF8AndSize(text, size)
    if not 0 < size[0] <= <Py_ssize_t>FQ_MAX_NAME:
        raise ValueError(f"a {what} has 1 to {MAX_NAME} bytes in UTF-8, not {size[0]}")
    return utf8


cdef uint64_t number(object value, uint64_t most) except? <uint64_t>-1:
    cdef uint64_t found
    try:
        found = PyLong_AsUnsignedLongLong(value)
    except (OverflowError, TypeError):
        raise ValueError(f"a number does not fit its field: {value!r} is not in 0 to {most}") from None
    if found > most:
        raise ValueError(f"a number does not fit its field: {value} is not in 0 to {most}")
    return found


# -- ids --------------------------------------------------------------------------------------------

cdef fq_ids ids


cdef void start_afresh() noexcept nogil:
    ids.seeded = False


# Copies of a process must not make each other's ids, whoever forked them.
if pthread_atfork(NULL, NULL, start_afresh):
    raise MemoryError


def new_id():
    """Return the 16 bytes of a new id."""
    if not ids.seeded:
        seed = os.urandom(sizeof(ids.random))
        memcpy(ids.random, PyBytes_AS_STRING(seed), sizeof(ids.random))
        ids.millisecond = 0
        ids.seeded = True
    id = PyBytes_FromStringAndSize(NULL, 16)
    fq_next_id(&ids, <uint8_t *>PyBytes_AS_STRING(id))
    return id
