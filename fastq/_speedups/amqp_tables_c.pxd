# cython: language_level=3
"""What `amqp_tables_c` has for `amqp_c`. All raise ValueError, TypeError or OverflowError for what doesn't fit."""

from libc.stdint cimport uint8_t, uint64_t

from .amqp cimport amqp_basic_properties_t, amqp_bytes_t, amqp_pool_t, amqp_table_t

cdef int fill_properties(amqp_pool_t *pool, properties, amqp_basic_properties_t *to) except -1
cdef int fill_arguments(amqp_pool_t *pool, given, amqp_table_t *to) except -1
cdef object read_properties(amqp_pool_t *pool, uint8_t *payload, size_t size)
cdef size_t read_arguments(amqp_pool_t *pool, const uint8_t *at, const uint8_t *end, list args) except 0
cdef amqp_bytes_t utf8(given) except *
cdef amqp_bytes_t short(given) except *
cdef uint64_t number(object value, uint64_t most) except? <uint64_t>-1
cdef str words(int error)
