# cython: language_level=3, boundscheck=False, wraparound=False
"""Properties and tables of AMQP, from Python to rabbitmq-c's structures and back. Memory comes from the caller's pool."""

import calendar
from datetime import datetime, timezone
from decimal import Decimal

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from .amqp cimport *

from .amqp_values import MAX_DEPTH, Properties


cdef extern from "Python.h":
    uint64_t PyLong_AsUnsignedLongLong(object) except? <uint64_t>-1


cdef unsigned DEEPEST = MAX_DEPTH
cdef object make = tuple.__new__


# -- writing ----------------------------------------------------------------------------------------


cdef int fill_properties(amqp_pool_t *pool, properties, amqp_basic_properties_t *to) except -1:
    cdef Py_ssize_t place
    for place in range(len(properties)):
        if properties[place] is not None:
            to._flags |= 0x8000 >> place  # the order of `Properties` is that of the flags
    (
        content_type, content_encoding, headers, delivery_mode, priority, correlation_id, reply_to, expiration,
        message_id, timestamp, type, user_id, app_id,
    ) = properties
    to.content_type = short(content_type)
    to.content_encoding = short(content_encoding)
    if headers is not None:
        fill_table(pool, headers, &to.headers, DEEPEST)
    to.delivery_mode = <uint8_t>number(delivery_mode or 0, 255)
    to.priority = <uint8_t>number(priority or 0, 255)
    to.correlation_id = short(correlation_id)
    to.reply_to = short(reply_to)
    to.expiration = short(expiration)
    to.message_id = short(message_id)
    to.timestamp = number(timestamp or 0, <uint64_t>-1)
    to.type = short(type)
    to.user_id = short(user_id)
    to.app_id = short(app_id)
    return 0


cdef int fill_arguments(amqp_pool_t *pool, given, amqp_table_t *to) except -1:
    return fill_table(pool, given, to, DEEPEST)


cdef int fill_table(amqp_pool_t *pool, given, amqp_table_t *to, unsigned depth) except -1:
    cdef amqp_table_entry_t *entry
    if not depth:
        raise ValueError(f"tables nested more than {MAX_DEPTH} deep")
    if not isinstance(given, dict):
        raise TypeError(f"{given!r} is not a dict")
    if not given:
        return 0
    entry = to.entries = <amqp_table_entry_t *>alloc(pool, len(given) * sizeof(amqp_table_entry_t))
    for name, value in given.items():
        if name is None:
            raise TypeError("a name is None")
        entry.key = short(name)
        fill_value(pool, value, &entry.value, depth)
        to.num_entries += 1
        entry += 1
    return 0


cdef int fill_array(amqp_pool_t *pool, given, amqp_array_t *to, unsigned depth) except -1:
    cdef amqp_field_value_t *entry
    if not depth:
        raise ValueError(f"tables nested more than {MAX_DEPTH} deep")
    if not given:
        return 0
    entry = to.entries = <amqp_field_value_t *>alloc(pool, len(given) * sizeof(amqp_field_value_t))
    for value in given:
        fill_value(pool, value, entry, depth)
        to.num_entries += 1
        entry += 1
    return 0


cdef int fill_value(amqp_pool_t *pool, value, amqp_field_value_t *to, unsigned depth) except -1:
    memset(to, 0, sizeof(to[0]))
    if value is None:
        to.kind = c"V"
    elif isinstance(value, bool):
        to.kind = c"t"
        to.value.boolean = value
    elif isinstance(value, int) and -0x80000000 <= value <= 0x7FFFFFFF:
        to.kind = c"I"
        to.value.i32 = value
    elif isinstance(value, int):
        to.kind = c"l"
        to.value.i64 = value
    elif isinstance(value, float):
        to.kind = c"d"
        to.value.f64 = value
    elif isinstance(value, str):
        to.kind = c"S"
        to.value.bytes = utf8(value)
    elif isinstance(value, bytes):
        to.kind = c"S"
        to.value.bytes.bytes = PyBytes_AS_STRING(value)
        to.value.bytes.len = PyBytes_GET_SIZE(value)
    elif isinstance(value, dict):
        to.kind = c"F"
        fill_table(pool, value, &to.value.table, depth - 1)
    elif isinstance(value, (list, tuple)):
        to.kind = c"A"
        fill_array(pool, value, &to.value.array, depth - 1)
    elif isinstance(value, datetime):
        to.kind = c"T"
        to.value.u64 = number(calendar.timegm(value.utctimetuple()), <uint64_t>-1)
    elif isinstance(value, Decimal):
        to.kind = c"D"
        to.value.decimal.decimals = <uint8_t>number(-value.as_tuple().exponent, 255)
        to.value.decimal.value = <uint32_t><int32_t>int(value.scaleb(to.value.decimal.decimals))
    else:
        raise TypeError(f"{value!r} is of no kind that there is for headers")
    return 0


cdef void *alloc(amqp_pool_t *pool, size_t size) except NULL:
    cdef void *found = amqp_pool_alloc(pool, size)
    if found == NULL:
        raise MemoryError
    return found


cdef amqp_bytes_t utf8(given) except *:
    cdef amqp_bytes_t found
    cdef Py_ssize_t size
    found.bytes = <void *>PyUnicode_AsUTF8AndSize(given, &size)
    found.len = size
    return found


cdef amqp_bytes_t short(given) except *:
    """Return a short string's bytes, which live as long as it; None is "", which is never sent."""
    cdef amqp_bytes_t found = utf8("" if given is None else given)
    if found.len > 255:
        raise ValueError(f"{given!r} has more than 255 bytes in UTF-8")
    return found


cdef uint64_t number(object value, uint64_t most) except? <uint64_t>-1:
    cdef uint64_t found = PyLong_AsUnsignedLongLong(value)
    if found > most:
        raise ValueError(f"{value} is not in 0 to {most}")
    return found


# -- reading ----------------------------------------------------------------------------------------


cdef object read_properties(amqp_pool_t *pool, uint8_t *payload, size_t size):
    cdef amqp_bytes_t encoded
    cdef void *decoded
    cdef amqp_basic_properties_t *found
    cdef uint32_t flags
    cdef int result
    if not fq_headers_are_sound(payload, payload + size, DEEPEST):
        raise ValueError(f"headers that are broken, or nested more than {MAX_DEPTH} deep")
    encoded.bytes = payload
    encoded.len = size
    try:
        result = amqp_decode_properties(60, pool, encoded, &decoded)
        if result < 0:
            raise ValueError(words(result))
        found = <amqp_basic_properties_t *>decoded
        flags = found._flags
        return make(Properties, (
            strictly(found.content_type) if flags & 0x8000 else None,
            strictly(found.content_encoding) if flags & 0x4000 else None,
            read_table(&found.headers) if flags & 0x2000 else None,
            found.delivery_mode if flags & 0x1000 else None,
            found.priority if flags & 0x0800 else None,
            strictly(found.correlation_id) if flags & 0x0400 else None,
            strictly(found.reply_to) if flags & 0x0200 else None,
            strictly(found.expiration) if flags & 0x0100 else None,
            strictly(found.message_id) if flags & 0x0080 else None,
            found.timestamp if flags & 0x0040 else None,
            strictly(found.type) if flags & 0x0020 else None,
            strictly(found.user_id) if flags & 0x0010 else None,
            strictly(found.app_id) if flags & 0x0008 else None,
        ))
    finally:
        recycle_amqp_pool(pool)


cdef size_t read_arguments(amqp_pool_t *pool, const uint8_t *at, const uint8_t *end, list args) except 0:
    """Read a table and add it to the arguments; return how many bytes it has."""
    cdef amqp_bytes_t encoded
    cdef amqp_table_t table
    cdef size_t size = 0
    encoded.bytes = <void *>at
    encoded.len = end - at
    if fq_skip_values(at, end, True, DEEPEST) == NULL or amqp_decode_table(encoded, pool, &table, &size) < 0:
        raise ValueError(f"a table that is broken, or nested more than {MAX_DEPTH} deep")
    args.append(read_table(&table))
    return size


cdef dict read_table(const amqp_table_t *table):
    cdef int place
    cdef dict found = {}
    for place in range(table.num_entries):
        found[strictly(table.entries[place].key)] = read_value(&table.entries[place].value)
    return found


cdef object read_value(const amqp_field_value_t *field):
    cdef int place
    cdef uint8_t kind = field.kind
    if kind == c"S":
        try:
            return strictly(field.value.bytes)
        except UnicodeDecodeError:
            return PyBytes_FromStringAndSize(<char *>field.value.bytes.bytes, field.value.bytes.len)
    if kind == c"I":
        return field.value.i32
    if kind == c"l" or kind == c"L":  # which some write for signed numbers, and nobody for others
        return field.value.i64
    if kind == c"t":
        return bool(field.value.boolean)
    if kind == c"d":
        return field.value.f64
    if kind == c"F":
        return read_table(&field.value.table)
    if kind == c"A":
        return [read_value(&field.value.array.entries[place]) for place in range(field.value.array.num_entries)]
    if kind == c"T":
        return datetime.fromtimestamp(field.value.u64, timezone.utc)
    if kind == c"V":
        return None
    if kind == c"x":
        return PyBytes_FromStringAndSize(<char *>field.value.bytes.bytes, field.value.bytes.len)
    if kind == c"b":
        return field.value.i8
    if kind == c"B":
        return field.value.u8
    if kind == c"s":
        return field.value.i16
    if kind == c"u":
        return field.value.u16
    if kind == c"i":
        return field.value.u32
    if kind == c"f":
        return field.value.f32
    return Decimal(<int32_t>field.value.decimal.value).scaleb(-<int>field.value.decimal.decimals)


cdef str strictly(amqp_bytes_t found):
    return PyUnicode_DecodeUTF8(<char *>found.bytes, found.len, NULL)


cdef str words(int error):
    return amqp_error_string2(error).decode()
