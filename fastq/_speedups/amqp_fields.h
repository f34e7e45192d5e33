/* rabbitmq-c's codec, and what it doesn't do: tell how deep a table is nested before it is decoded.
 *
 * The library decodes nested tables by recursion as deep as they go. Whoever may publish decides on that, so every
 * table is walked here first. */
#ifndef FQ_AMQP_FIELDS_H
#define FQ_AMQP_FIELDS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__has_include)
#if __has_include(<rabbitmq-c/framing.h>)
#include <rabbitmq-c/framing.h>
#define FQ_NEW_NAMES
#endif
#endif
#ifndef FQ_NEW_NAMES
#include <amqp.h>
#include <amqp_framing.h>
#endif

static inline uint32_t fq_get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint64_t fq_get64(const uint8_t *at) { return (uint64_t)fq_get32(at) << 32 | fq_get32(at + 4); }

static inline void fq_put16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void fq_put32(uint8_t *at, uint32_t value) {
    fq_put16(at, (uint16_t)(value >> 16));
    fq_put16(at + 2, (uint16_t)value);
}

static inline void fq_put64(uint8_t *at, uint64_t value) {
    fq_put32(at, (uint32_t)(value >> 32));
    fq_put32(at + 4, (uint32_t)value);
}

/* Return where the values that begin at `at` end, with their names if they are a table's; NULL if they don't fit
 * before `end`, have a kind that is not known, or are nested more than `room` deep. */
static inline const uint8_t *fq_skip_values(const uint8_t *at, const uint8_t *end, int named, unsigned room) {
    if (end - at < 4) return NULL;
    uint32_t size = fq_get32(at);
    at += 4;
    if ((size_t)(end - at) < size || !room) return NULL;
    end = at + size;
    while (at < end) {
        if (named) {
            if (end - at <= *at) return NULL;
            at += 1 + *at;
        }
        if (at == end) return NULL;
        uint8_t kind = *at++;
        size_t length;
        switch (kind) {
        case 'V': length = 0; break;
        case 't': case 'b': case 'B': length = 1; break;
        case 's': case 'u': length = 2; break;
        case 'I': case 'i': case 'f': length = 4; break;
        case 'D': length = 5; break;
        case 'l': case 'L': case 'd': case 'T': length = 8; break;
        case 'S': case 'x':
            if (end - at < 4) return NULL;
            length = 4 + (size_t)fq_get32(at);
            break;
        case 'F': case 'A':
            at = fq_skip_values(at, end, kind == 'F', room - 1);
            if (at == NULL) return NULL;
            length = 0;
            break;
        default: return NULL;
        }
        if ((size_t)(end - at) < length) return NULL;
        at += length;
    }
    return at;
}

/* Return whether the headers among the properties of a message are fit to be decoded. */
static inline int fq_headers_are_sound(const uint8_t *at, const uint8_t *end, unsigned room) {
    if (end - at < 2) return 0;
    uint8_t flags = *at;
    at += 2;
    if (at[-1] & 1) return 0; /* more flags follow, which nobody has a use for */
    if (!(flags & 0x20)) return 1;
    for (uint8_t flag = 0x80; flag >= 0x40; flag >>= 1) { /* content type and encoding come before */
        if (!(flags & flag)) continue;
        if (end - at <= *at) return 0;
        at += 1 + *at;
    }
    return fq_skip_values(at, end, 1, room) != NULL;
}

#endif
