/* What lies where in the shared region of a channel: marks, checks, and the large payloads behind it.
 *
 * channel.h has the protocol, and says what is trusted.
 */
#ifndef FASTQ_REGION_H
#define FASTQ_REGION_H

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "the region is shared between processes: no locks behind atomics");

/* A model checker steps through the protocol here; see tests/speedups/channel_model.c. */
#ifndef FQ_STEP
#define FQ_STEP() ((void)0)
#endif
#define fq_load(word, order) (FQ_STEP(), atomic_load_explicit(word, memory_order_##order))
#define fq_store(word, value, order) (FQ_STEP(), atomic_store_explicit(word, value, memory_order_##order))
#define fq_swap(word, value, order) (FQ_STEP(), atomic_exchange_explicit(word, value, memory_order_##order))
#define fq_set(word, bits) (FQ_STEP(), atomic_fetch_or_explicit(word, bits, memory_order_seq_cst))
#define fq_clear(word, bits) (FQ_STEP(), atomic_fetch_and_explicit(word, ~(bits), memory_order_seq_cst))
#define fq_cas(word, expected, value) \
    (FQ_STEP(), atomic_compare_exchange_strong_explicit(word, expected, value, memory_order_acq_rel, memory_order_acquire))

typedef _Atomic uint64_t fq_word;
typedef _Atomic uint32_t fq_flag;

/* -- positions and marks ---------------------------------------------------------------------------------
 *
 * Positions count payloads handed over, modulo 2^40. A claim is mistaken for another only if a child is
 * stopped between reading a ring entry and swapping the mark for exactly 2^40 payloads, or days of full load.
 * They start shortly before they wrap, so that every channel that works for a moment has shown that it can.
 */

#define FQ_POSITION_BITS 40
#define FQ_POSITION_MASK (((uint64_t)1 << FQ_POSITION_BITS) - 1)
#define FQ_FIRST_POSITION (FQ_POSITION_MASK - 1000)
#define FQ_MAX_CHILDREN 4095u
#define FQ_MAX_CAPACITY 65535u

typedef enum { FQ_FREE, FQ_WAITING, FQ_TAKEN, FQ_RUNNING, FQ_DONE, FQ_SPOILED } fq_state;

/* A word of 56 bits and a check byte that no change within a single byte leaves right. */
static inline uint64_t fq_checked(uint64_t bits) {
    uint64_t fold = bits ^ bits >> 32;
    fold ^= fold >> 16;
    fold ^= fold >> 8;
    return bits << 8 | ((fold ^ 0xa5) & 0xff);
}

static inline bool fq_is_sound(uint64_t word) {
    return fq_checked(word >> 8) == word;
}

static inline uint64_t fq_mark(uint64_t position, uint32_t child, fq_state state) {
    return fq_checked(position << 16 | (uint64_t)child << 4 | state);
}

static inline uint64_t fq_mark_position(uint64_t mark) {
    return mark >> 24;
}

static inline uint32_t fq_mark_child(uint64_t mark) {
    return mark >> 12 & 0xfff;
}

static inline fq_state fq_mark_state(uint64_t mark) {
    return (fq_state)(mark >> 8 & 0xf);
}

/* A ring entry: the position where a mark has it, and a slot. */
static inline uint64_t fq_entry(uint64_t position, uint32_t slot) {
    return fq_checked(position << 16 | slot);
}

/* Every step is a bijection of what came before, so a change within any one word changes the result. */
static inline uint64_t fq_mix(uint64_t sum, uint64_t word) {
    sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
    return sum ^ sum >> 29;
}

static inline uint64_t fq_sum(uint64_t position, uint64_t ticket, uint64_t size, const void *data) {
    const unsigned char *at = data;
    uint64_t sum = fq_mix(fq_mix(fq_mix(0, position), ticket), size), word;
    for (; size >= sizeof word; at += sizeof word, size -= sizeof word) {
        memcpy(&word, at, sizeof word);
        sum = fq_mix(sum, word);
    }
    word = 0;
    if (size)
        memcpy(&word, at, size);
    return fq_mix(sum, word);
}

/* -- the region ------------------------------------------------------------------------------------------- */

#define FQ_MAGIC UINT64_C(0x3171747361660a01)
#define FQ_AREA 16384u                   /* what travels within a slot */
#define FQ_EXTENT ((uint64_t)1 << 31)    /* room for a larger payload, in the file behind the region */
#define FQ_LINE 64

typedef struct {
    uint64_t magic, children, capacity, ring_size, low, size;
} fq_shape;

typedef struct {
    _Alignas(FQ_LINE) fq_shape shape; /* constant */
    _Alignas(FQ_LINE) fq_word head;   /* children */
    _Alignas(FQ_LINE) fq_word tail;   /* the parent */
    fq_flag stopped;
    _Alignas(FQ_LINE) fq_flag armed;  /* both */
    _Alignas(FQ_LINE) fq_flag waking; /* both: 1 + the child that was woken and is not up yet, or 0 */
} fq_header;

typedef struct {
    _Alignas(FQ_LINE) fq_word mark;
    fq_word since;             /* nanoseconds of the monotonic clock, 0 before the child has written it */
    fq_word ticket, size, sum; /* published by the mark; atomic so that what is checked is what is used */
} fq_slot;

typedef struct {
    _Alignas(FQ_LINE) fq_flag sleep; /* a futex: 1 while its child sleeps or is about to */
} fq_bed;

/* Where things are, for one process. */
typedef struct {
    fq_shape shape;
    fq_header *header;
    fq_word *idle, *done, *ring;
    fq_bed *beds;
    fq_slot *slots;
    unsigned char *areas;
} fq_region;

static inline uint64_t fq_lines(uint64_t bytes) {
    return (bytes + FQ_LINE - 1) / FQ_LINE * FQ_LINE;
}

static inline fq_shape fq_shape_of(uint32_t children, uint32_t capacity) {
    uint64_t ring_size = 8; /* a whole line */
    while (ring_size < (uint64_t)capacity + 2) /* head may lag one behind what waits */
        ring_size *= 2;
    fq_shape shape = {FQ_MAGIC, children, capacity, ring_size, capacity / 4, 0};
    shape.size = sizeof(fq_header) + fq_lines((children + 63) / 64 * 8) + fq_lines((capacity + 63) / 64 * 8) +
                 ring_size * 8 + children * sizeof(fq_bed) + capacity * sizeof(fq_slot);
    shape.size = (shape.size + FQ_AREA - 1) / FQ_AREA * FQ_AREA + (uint64_t)capacity * FQ_AREA;
    return shape;
}

static inline void fq_lay_out(fq_region *region, fq_shape shape, void *base) {
    unsigned char *at = base;
    region->shape = shape;
    region->header = base;
    region->idle = (fq_word *)(at += sizeof(fq_header));
    region->done = (fq_word *)(at += fq_lines((shape.children + 63) / 64 * 8));
    region->ring = (fq_word *)(at += fq_lines((shape.capacity + 63) / 64 * 8));
    region->beds = (fq_bed *)(at += shape.ring_size * 8);
    region->slots = (fq_slot *)(at += shape.children * sizeof(fq_bed));
    region->areas = (unsigned char *)base + shape.size - shape.capacity * FQ_AREA;
}

/* Whether a shape read from a region is one that fq_shape_of makes. */
static inline bool fq_shape_is_sound(const fq_shape *shape) {
    if (!shape->children || shape->children > FQ_MAX_CHILDREN || !shape->capacity || shape->capacity > FQ_MAX_CAPACITY)
        return false;
    const fq_shape right = fq_shape_of((uint32_t)shape->children, (uint32_t)shape->capacity);
    return !memcmp(shape, &right, sizeof right);
}

static inline unsigned char *fq_area(const fq_region *region, uint32_t slot) {
    return region->areas + (size_t)slot * FQ_AREA;
}

/* Where in the file a slot's larger payloads are. */
static inline uint64_t fq_extent(const fq_region *region, uint32_t slot) {
    return region->shape.size + slot * FQ_EXTENT;
}

static inline uint64_t fq_waiting(const fq_region *region) {
    const uint64_t head = fq_load(&region->header->head, acquire);
    return (fq_load(&region->header->tail, seq_cst) - head) & FQ_POSITION_MASK;
}

static inline uint64_t fq_read(fq_word *word) {
    return fq_load(word, acquire);
}

static inline bool fq_is_stopped(const fq_region *region) {
    return fq_load(&region->header->stopped, seq_cst);
}

/* Payloads too large for an area go through the file. All return 0 or an errno. */

static inline int fq_write_at(int file, const char *from, uint64_t size, uint64_t at) {
    while (size) {
        const ssize_t done = pwrite(file, from, size, (off_t)at);
        if (done < 0 && errno != EINTR)
            return errno;
        if (done > 0)
            from += done, at += (uint64_t)done, size -= (uint64_t)done;
    }
    return 0;
}

static inline int fq_read_at(int file, char *to, uint64_t size, uint64_t at) {
    while (size) {
        const ssize_t done = pread(file, to, size, (off_t)at);
        if (done == 0 || (done < 0 && errno != EINTR))
            return done ? errno : EBADMSG;
        if (done > 0)
            to += done, at += (uint64_t)done, size -= (uint64_t)done;
    }
    return 0;
}

/* Whether the file has data all through: a size is believed, and memory set aside for it, only then. */
static inline bool fq_has_data(int file, uint64_t size, uint64_t at) {
    const off_t hole = lseek(file, (off_t)at, SEEK_HOLE);
    return hole >= 0 && (uint64_t)hole >= at + size;
}

static inline void fq_punch(int file, uint64_t at) {
    fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)FQ_EXTENT);
}

#endif
