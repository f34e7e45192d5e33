/* The fixed headers of the two frames, in C, and the counter behind time-ordered ids.
 *
 * Numbers are little-endian on every machine: they are put together byte by byte, which compilers turn into
 * single loads and stores where they can. docs/protocol.rst has the frames byte by byte.
 */
#ifndef FASTQ_FRAMES_H
#define FASTQ_FRAMES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define FQ_MAX_NAME 255u
#define FQ_MAX_FRAME 0x7fffffffu
#define FQ_VERSION 1u

static inline void fq_put(uint8_t *at, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static inline uint64_t fq_get(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* -- a call ------------------------------------------------------------------------------------------ */

#define FQ_CALL_HEADER 72u

typedef struct {
    uint64_t enqueued_at, eta, expires, reply_to;
    uint32_t attempt, extras_size, body_size;
    uint16_t crashes, queue_size;
    uint8_t version, flags, priority, content;
    uint16_t name_size;
    uint8_t id[16];
} fq_call;

static inline void fq_write_call(uint8_t *at, const fq_call *call) {
    at[0] = 0xf5;
    at[1] = 'Q';
    at[2] = FQ_VERSION;
    at[3] = call->flags;
    at[4] = call->priority;
    at[5] = call->content;
    fq_put(at + 6, call->name_size, 2);
    memcpy(at + 8, call->id, 16);
    fq_put(at + 24, call->enqueued_at, 8);
    fq_put(at + 32, call->eta, 8);
    fq_put(at + 40, call->expires, 8);
    fq_put(at + 48, call->reply_to, 8);
    fq_put(at + 56, call->attempt, 4);
    fq_put(at + 60, call->crashes, 2);
    fq_put(at + 62, call->queue_size, 2);
    fq_put(at + 64, call->extras_size, 4);
    fq_put(at + 68, call->body_size, 4);
}

/* What is wrong with a frame. */
typedef enum {
    FQ_SOUND,
    FQ_SHORT,
    FQ_ALIEN,
    FQ_OTHER_VERSION,
    FQ_BAD_PRIORITY,
    FQ_NO_ATTEMPT,
    FQ_BAD_NAMES,
    FQ_RESERVED_BITS,
    FQ_BAD_LENGTH,
} fq_flaw;

/* Read the header and check it against the frame's size, once and for all of its parts. */
static inline fq_flaw fq_read_call(const uint8_t *at, uint64_t size, fq_call *call, uint64_t *promised) {
    *promised = 0;
    if (size < FQ_CALL_HEADER)
        return FQ_SHORT;
    call->version = at[2];
    call->flags = at[3];
    call->priority = at[4];
    call->content = at[5];
    call->name_size = (uint16_t)fq_get(at + 6, 2);
    memcpy(call->id, at + 8, 16);
    call->enqueued_at = fq_get(at + 24, 8);
    call->eta = fq_get(at + 32, 8);
    call->expires = fq_get(at + 40, 8);
    call->reply_to = fq_get(at + 48, 8);
    call->attempt = (uint32_t)fq_get(at + 56, 4);
    call->crashes = (uint16_t)fq_get(at + 60, 2);
    call->queue_size = (uint16_t)fq_get(at + 62, 2);
    call->extras_size = (uint32_t)fq_get(at + 64, 4);
    call->body_size = (uint32_t)fq_get(at + 68, 4);
    *promised = (uint64_t)FQ_CALL_HEADER + call->name_size + call->queue_size + call->extras_size + call->body_size;
    if (at[0] != 0xf5 || at[1] != 'Q')
        return FQ_ALIEN;
    if (call->version != FQ_VERSION)
        return FQ_OTHER_VERSION;
    if (call->priority > 9)
        return FQ_BAD_PRIORITY;
    if (!call->attempt)
        return FQ_NO_ATTEMPT;
    if (!call->name_size || call->name_size > FQ_MAX_NAME || !call->queue_size || call->queue_size > FQ_MAX_NAME)
        return FQ_BAD_NAMES;
    return *promised == size ? FQ_SOUND : FQ_BAD_LENGTH;
}

/* -- an end -------------------------------------------------------------------------------------------- */

#define FQ_END_HEADER 72u

typedef struct {
    uint64_t started_at, finished_at, due;
    uint32_t attempt, body_size;
    uint8_t version, state, content, name_size;
    uint8_t id[16], group[16];
} fq_end;

static inline void fq_write_end(uint8_t *at, const fq_end *end) {
    at[0] = 0xf5;
    at[1] = 'O';
    at[2] = FQ_VERSION;
    at[3] = end->state;
    at[4] = end->content;
    at[5] = end->name_size;
    fq_put(at + 6, 0, 2);
    memcpy(at + 8, end->id, 16);
    memcpy(at + 24, end->group, 16);
    fq_put(at + 40, end->started_at, 8);
    fq_put(at + 48, end->finished_at, 8);
    fq_put(at + 56, end->due, 8);
    fq_put(at + 64, end->attempt, 4);
    fq_put(at + 68, end->body_size, 4);
}

static inline fq_flaw fq_read_end(const uint8_t *at, uint64_t size, fq_end *end, uint64_t *promised) {
    *promised = 0;
    if (size < FQ_END_HEADER)
        return FQ_SHORT;
    end->version = at[2];
    end->state = at[3];
    end->content = at[4];
    end->name_size = at[5];
    memcpy(end->id, at + 8, 16);
    memcpy(end->group, at + 24, 16);
    end->started_at = fq_get(at + 40, 8);
    end->finished_at = fq_get(at + 48, 8);
    end->due = fq_get(at + 56, 8);
    end->attempt = (uint32_t)fq_get(at + 64, 4);
    end->body_size = (uint32_t)fq_get(at + 68, 4);
    *promised = (uint64_t)FQ_END_HEADER + end->name_size + end->body_size;
    if (at[0] != 0xf5 || at[1] != 'O')
        return FQ_ALIEN;
    if (end->version != FQ_VERSION)
        return FQ_OTHER_VERSION;
    if (fq_get(at + 6, 2))
        return FQ_RESERVED_BITS;
    return *promised == size ? FQ_SOUND : FQ_BAD_LENGTH;
}

/* -- ids (RFC 9562, version 7) --------------------------------------------------------------------------
 *
 * 48 bits of milliseconds, then 74 bits that are random when a millisecond begins and count upwards within
 * it. The generator is xoshiro256** (Blackman and Vigna, public domain), seeded once per process.
 */

typedef struct {
    uint64_t random[4];
    uint64_t millisecond, high, low; /* the present counter: 12 and 62 bits */
    bool seeded;
} fq_ids;

static inline uint64_t fq_rotate(uint64_t x, int by) {
    return (x << by) | (x >> (64 - by));
}

static inline uint64_t fq_random(uint64_t s[4]) {
    const uint64_t result = fq_rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = fq_rotate(s[3], 45);
    return result;
}

/* The clock is read through the vDSO: no system call. `ids` has to be seeded. */
static inline void fq_next_id(fq_ids *ids, uint8_t id[16]) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t millisecond = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    if (millisecond > ids->millisecond) {
        ids->millisecond = millisecond;
        ids->high = fq_random(ids->random) >> 53; /* the top bit starts clear: a millisecond can't run out of numbers */
        ids->low = fq_random(ids->random) >> 2;
    } else if (++ids->low >> 62) {
        ids->low = 0;
        ids->high++;
    }
    uint64_t head = ids->millisecond << 16 | 7 << 12 | (ids->high & 0xfff), tail = (uint64_t)2 << 62 | ids->low;
    for (int i = 7; i >= 0; i--, head >>= 8, tail >>= 8) {
        id[i] = (uint8_t)head;
        id[8 + i] = (uint8_t)tail;
    }
}

#endif
