# cython: language_level=3
"""What `amqp_c` uses of rabbitmq-c, and of amqp_fields.h."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "amqp_fields.h" nogil:
    ctypedef struct amqp_bytes_t:
        size_t len
        void *bytes

    ctypedef struct amqp_decimal_t:
        uint8_t decimals
        uint32_t value

    ctypedef struct amqp_table_t:
        int num_entries
        amqp_table_entry_t *entries

    ctypedef struct amqp_array_t:
        int num_entries
        amqp_field_value_t *entries

    ctypedef union amqp_value_t "amqp_value_t":  # it has no name in C
        int boolean
        int8_t i8
        uint8_t u8
        int16_t i16
        uint16_t u16
        int32_t i32
        uint32_t u32
        int64_t i64
        uint64_t u64
        float f32
        double f64
        amqp_decimal_t decimal
        amqp_bytes_t bytes
        amqp_table_t table
        amqp_array_t array

    ctypedef struct amqp_field_value_t:
        uint8_t kind
        amqp_value_t value

    ctypedef struct amqp_table_entry_t:
        amqp_bytes_t key
        amqp_field_value_t value

    ctypedef struct amqp_pool_t:
        pass

    void init_amqp_pool(amqp_pool_t *pool, size_t pagesize)
    void recycle_amqp_pool(amqp_pool_t *pool)
    void empty_amqp_pool(amqp_pool_t *pool)
    void *amqp_pool_alloc(amqp_pool_t *pool, size_t amount)
    int amqp_encode_method(uint32_t method, void *decoded, amqp_bytes_t encoded)
    int amqp_decode_method(uint32_t method, amqp_pool_t *pool, amqp_bytes_t encoded, void **decoded)
    int amqp_encode_properties(uint16_t class_id, void *decoded, amqp_bytes_t encoded)
    int amqp_decode_properties(uint16_t class_id, amqp_pool_t *pool, amqp_bytes_t encoded, void **decoded)
    int amqp_encode_table(amqp_bytes_t encoded, amqp_table_t *input, size_t *offset)
    int amqp_decode_table(amqp_bytes_t encoded, amqp_pool_t *pool, amqp_table_t *output, size_t *offset)
    const char *amqp_error_string2(int error)

    ctypedef struct amqp_basic_publish_t:
        amqp_bytes_t exchange, routing_key
        int mandatory

    ctypedef struct amqp_basic_deliver_t:
        amqp_bytes_t consumer_tag, exchange, routing_key
        uint64_t delivery_tag
        int redelivered

    ctypedef struct amqp_basic_ack_t:
        uint64_t delivery_tag
        int multiple

    ctypedef struct amqp_basic_properties_t:
        uint32_t _flags
        amqp_bytes_t content_type, content_encoding, correlation_id, reply_to, expiration, message_id, type, user_id
        amqp_bytes_t app_id
        amqp_table_t headers
        uint8_t delivery_mode, priority
        uint64_t timestamp

    uint32_t fq_get32(const uint8_t *at)
    uint64_t fq_get64(const uint8_t *at)
    void fq_put16(uint8_t *at, uint16_t value)
    void fq_put32(uint8_t *at, uint32_t value)
    void fq_put64(uint8_t *at, uint64_t value)
    const uint8_t *fq_skip_values(const uint8_t *at, const uint8_t *end, int named, unsigned room)
    int fq_headers_are_sound(const uint8_t *at, const uint8_t *end, unsigned room)
