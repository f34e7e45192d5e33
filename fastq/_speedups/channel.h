/* The shared region of a pool channel and the protocol on it, in plain C11 atomics.
 *
 * The region lies in one file that parent and children map. A payload lives in one of `capacity` slots from
 * the moment it is handed over until what came of it is taken back, and the slot's mark says all about it:
 *
 *     WAITING ── a child claims ──► TAKEN ── it has the payload ──► RUNNING ── outcome written ──► DONE
 *                                     └── the payload is damaged ──► SPOILED
 *
 * A mark is one word: the position at which the payload was handed over, the child, the state, and a check
 * byte. All that can race for it is claiming (children, and the parent when it withdraws), by compare and
 * swap from WAITING; afterwards only the child that it names writes it. So whenever a child dies, the
 * marks say what it had: TAKEN was never begun, RUNNING is in doubt, DONE is whole.
 *
 * Everything else in the region is a hint that can be lost without losing a payload:
 *   ring, head, tail   which slot was handed over at which position; positions before `head` are claimed
 *   done               a bit for every slot that may be DONE, set by children, swept by the parent
 *   idle, sleep        who sleeps, so that only sleepers are woken
 *   waking             who is getting up, so that one is woken at a time
 *   armed              whether the parent wants to be woken
 *
 * Ordering. A mark is stored with release and read with acquire (or swapped), so whoever sees the state sees
 * the payload, length and check written before it. Reading a later `tail` (acquire) shows the ring entries
 * before it. `head` is swapped with release after `tail` was read with acquire, so a child that sees a head
 * sees a tail at least as new: head never seems to be past tail. Two pairs need more than that, since each
 * side writes one word and then reads the other's:
 *   parent: tail, then idle       child: idle, then tail        (a payload, or a sleeper, is noticed)
 *   parent: tail, then waking     child: waking, then tail      (a payload is noticed, or the next is woken for it)
 *   parent: armed, then done      child: done, then armed       (an outcome, or a waiting parent, is noticed)
 * Those accesses are sequentially consistent: in their single order one side comes second and sees the other.
 * On x86-64 that makes the writes locked instructions, and all the other accesses plain moves; on arm64 it is
 * STLR/LDAR and the acquire-release forms of the LSE atomics, of which LDAR is not reordered before an
 * earlier STLR. Nothing here depends on x86's stronger order.
 *
 * Trust. The parent keeps what matters in memory of its own (`fq_parent.held`) and takes the region for
 * what an untrusted process may have written: indices are bounded, lengths are bounded and read once,
 * payloads are copied out and their checks computed on the copy. What does not add up is a flaw.
 */
#ifndef FASTQ_CHANNEL_H
#define FASTQ_CHANNEL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "the region is shared between processes: no locks behind atomics");

/* A model checker steps through the protocol here; see tests/speedups/model.c. */
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

typedef enum { FQ_FREE, FQ_WAITING, FQ_TAKEN, FQ_RUNNING, FQ_DONE, FQ_SPOILED, FQ_STATES } fq_state;

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
#define FQ_AREA 4096u                    /* what travels within a slot */
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
    uint64_t ring_size = 4;
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

static inline uint64_t fq_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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

/* -- waking children -------------------------------------------------------------------------------------------
 *
 * To wake a process is what is dear, and a child that is up may do the work of many. So one is woken at a
 * time, and wakes the next when it has claimed something and sees that more waits. `waking` is set before the
 * bit in `idle` is cleared: a child that finds its bit cleared knows that it is the one, and a waker that
 * finds it cleared by the child itself tries another.
 */

/* Wake the sleeper with the lowest number, so that few children stay warm when few are needed. */
static inline bool fq_wake_one(fq_region *region) {
    fq_header *header = region->header;
    if (fq_load(&header->waking, seq_cst))
        return false;
    for (uint32_t i = 0; i * 64 < region->shape.children; i++) {
        uint64_t idle;
        while ((idle = fq_load(&region->idle[i], seq_cst))) {
            const uint64_t lowest = idle & -idle;
            const uint32_t child = i * 64 + (uint32_t)__builtin_ctzll(idle);
            fq_store(&header->waking, child + 1, seq_cst);
            if (!(fq_clear(&region->idle[i], lowest) & lowest) || child >= region->shape.children) {
                fq_store(&header->waking, 0, seq_cst);
                continue;
            }
            fq_store(&region->beds[child].sleep, 0, release);
            syscall(SYS_futex, &region->beds[child].sleep, FUTEX_WAKE, 1, NULL, NULL, 0);
            return true;
        }
    }
    return false;
}

static inline bool fq_anyone_idle(const fq_region *region) {
    for (uint32_t i = 0; i * 64 < region->shape.children; i++)
        if (fq_load(&region->idle[i], seq_cst))
            return true;
    return false;
}

/* -- the child's side --------------------------------------------------------------------------------------- */

/* A descriptor, and what it stood for at first: a task may close it, and open another file under its number. */
typedef struct {
    int number;
    dev_t device;
    ino_t inode;
} fq_file;

typedef struct {
    fq_region region;
    fq_file file, bell; /* what the region is mapped from; the pipe that wakes the parent */
    uint32_t child, slot;
    uint64_t position;
} fq_seat;

static inline bool fq_is_itself(const fq_file *file) {
    struct stat found;
    return !fstat(file->number, &found) && found.st_dev == file->device && found.st_ino == file->inode;
}

/* Returns 0 or an errno. */
static inline int fq_take_seat(fq_seat *seat, uint32_t child, int file, int bell) {
    struct stat files[2];
    if (fstat(file, &files[0]) || fstat(bell, &files[1]))
        return errno;
    seat->child = child;
    seat->file = (fq_file){file, files[0].st_dev, files[0].st_ino};
    seat->bell = (fq_file){bell, files[1].st_dev, files[1].st_ino};
    return 0;
}

typedef enum { FQ_CLAIMED, FQ_EMPTY, FQ_BROKEN } fq_claim_result;

/* Claim the payload that has waited longest. Lock-free: a turn of the loop ends it, or someone made progress. */
static inline fq_claim_result fq_claim(fq_seat *seat) {
    fq_region *region = &seat->region;
    fq_header *header = region->header;
    for (;;) {
        uint64_t head = fq_load(&header->head, acquire);
        const uint64_t tail = fq_load(&header->tail, seq_cst);
        if (head == tail)
            return FQ_EMPTY;
        if (((tail - head) & FQ_POSITION_MASK) > region->shape.ring_size) {
            if (fq_load(&header->head, acquire) != head)
                continue; /* it was an old head */
            return FQ_BROKEN;
        }
        const uint64_t entry = fq_load(&region->ring[head & (region->shape.ring_size - 1)], acquire);
        const uint32_t slot = entry >> 8 & 0xffff;
        if (!fq_is_sound(entry) || slot >= region->shape.capacity)
            return FQ_BROKEN;
        /* The entry is another position's only when this one was claimed long ago, and so is not WAITING. */
        uint64_t mark = fq_mark(head, 0, FQ_WAITING);
        const bool claimed = fq_mark_position(entry) == head &&
                             fq_cas(&region->slots[slot].mark, &mark, fq_mark(head, seat->child, FQ_TAKEN));
        const uint64_t position = head;
        fq_cas(&header->head, &head, (head + 1) & FQ_POSITION_MASK);
        if (claimed) {
            seat->slot = slot;
            seat->position = position;
            return FQ_CLAIMED;
        }
    }
}

/* Have the parent know that the child holds the whole payload and goes on to run it. */
static inline void fq_begin(fq_seat *seat) {
    fq_slot *slot = &seat->region.slots[seat->slot];
    fq_store(&slot->since, fq_now(), relaxed);
    fq_store(&slot->mark, fq_mark(seat->position, seat->child, FQ_RUNNING), release);
}

/* What `armed` says. In between, when much still waits, the parent looks by itself once a millisecond. */
enum { FQ_DISARMED, FQ_WHEN_LOW, FQ_AT_ONCE };

/* Give the slot back in its last state; returns whether the bell is to be rung for it. */
static inline bool fq_give_back(fq_seat *seat, fq_state state) {
    fq_region *region = &seat->region;
    fq_store(&region->slots[seat->slot].mark, fq_mark(seat->position, seat->child, state), release);
    fq_set(&region->done[seat->slot / 64], (uint64_t)1 << seat->slot % 64);
    const uint32_t armed = fq_load(&region->header->armed, seq_cst);
    if (armed == FQ_DISARMED || (armed == FQ_WHEN_LOW && state == FQ_DONE && fq_waiting(region) > region->shape.low))
        return false;
    return fq_swap(&region->header->armed, FQ_DISARMED, acq_rel) != FQ_DISARMED; /* one ring per waiting parent */
}

/* The outcome lies in the slot's area or in the file. */
static inline bool fq_end(fq_seat *seat, uint64_t ticket, uint64_t size, const void *outcome) {
    fq_slot *slot = &seat->region.slots[seat->slot];
    fq_store(&slot->size, size, relaxed);
    fq_store(&slot->sum, fq_sum(seat->position, ticket, size, outcome), relaxed);
    return fq_give_back(seat, FQ_DONE);
}

/* Wake the parent. Returns 0 or an errno, EPIPE when it is gone. */
static inline int fq_ring_bell(const fq_seat *seat) {
    if (!fq_is_itself(&seat->bell))
        return EBADF;
    return write(seat->bell.number, "!", 1) == 1 || errno == EAGAIN ? 0 : errno; /* a full pipe wakes as well */
}

/* Whether the parent is gone: nobody is left to read the bell. */
static inline bool fq_is_orphaned(const fq_seat *seat) {
    struct pollfd bell = {seat->bell.number, 0, 0};
    return poll(&bell, 1, 0) == 1 && (bell.revents & POLLERR);
}

/* Lie down; returns false, and stays up, when there is something to do. `fq_get_up` undoes it. */
static inline bool fq_lie_down(fq_seat *seat) {
    fq_region *region = &seat->region;
    fq_store(&region->beds[seat->child].sleep, 1, relaxed);
    fq_set(&region->idle[seat->child / 64], (uint64_t)1 << seat->child % 64);
    return fq_waiting(region) == 0 && !fq_is_stopped(region);
}

static inline void fq_sleep(fq_seat *seat, uint64_t nanoseconds) {
    const struct timespec most = {(time_t)(nanoseconds / 1000000000u), (long)(nanoseconds % 1000000000u)};
    syscall(SYS_futex, &seat->region.beds[seat->child].sleep, FUTEX_WAIT, 1, &most, NULL, 0);
}

/* Be up. Whoever was woken has to `fq_wake_next` once it has claimed something. */
static inline void fq_get_up(fq_seat *seat) {
    fq_region *region = &seat->region;
    const uint64_t bit = (uint64_t)1 << seat->child % 64;
    if (!(fq_clear(&region->idle[seat->child / 64], bit) & bit) && fq_load(&region->header->waking, relaxed) == seat->child + 1)
        fq_store(&region->header->waking, 0, seq_cst);
}

/* Wake the next child if there is more to do. */
static inline void fq_wake_next(fq_seat *seat) {
    if (fq_waiting(&seat->region))
        fq_wake_one(&seat->region);
}

/* -- the parent's side ------------------------------------------------------------------------------------------ */

/* What the parent knows of a slot by itself. */
typedef struct {
    uint64_t ticket, position;
    bool used, large; /* large: the file behind the region has something for it */
} fq_held;

typedef struct {
    fq_region region;
    uint64_t tail;
    fq_held *held;      /* a slot each */
    uint32_t *order;    /* the ring's slots */
    uint32_t *vacant, vacant_count;
    uint64_t *pending;  /* bits taken from `done` and not looked at yet */
    uint32_t armed;     /* what `armed` was set to */
    const char *flaw;   /* what does not add up in the region, once something was found */
} fq_parent;

/* Make a region afresh, when no child is there. */
static inline void fq_format(fq_parent *parent) {
    fq_region *region = &parent->region;
    const fq_shape shape = region->shape;
    memset(region->header, 0, (size_t)(region->areas - (unsigned char *)region->header));
    region->header->shape = shape;
    parent->tail = FQ_FIRST_POSITION;
    atomic_init(&region->header->head, parent->tail);
    atomic_init(&region->header->tail, parent->tail);
    atomic_init(&region->header->armed, FQ_AT_ONCE);
    memset(parent->held, 0, shape.capacity * sizeof *parent->held);
    memset(parent->pending, 0, (shape.capacity + 63) / 64 * 8);
    parent->vacant_count = 0;
    for (uint32_t slot = (uint32_t)shape.capacity; slot-- > 0;)
        parent->vacant[parent->vacant_count++] = slot;
    parent->armed = FQ_AT_ONCE;
    parent->flaw = NULL;
}

/* Let the children leave when nothing waits any more. */
static inline void fq_stop(fq_parent *parent) {
    fq_store(&parent->region.header->stopped, 1, seq_cst);
    do
        fq_store(&parent->region.header->waking, 0, seq_cst);
    while (fq_wake_one(&parent->region));
}

/* Wake a child for what waits, even if another is said to be getting up: that one may be stopped or dead. */
static inline bool fq_wake_anyway(fq_parent *parent) {
    fq_store(&parent->region.header->waking, 0, seq_cst);
    return fq_waiting(&parent->region) && fq_wake_one(&parent->region);
}

/* Set a slot aside for a payload, to be handed over or vacated. There has to be a vacant one. */
static inline uint32_t fq_reserve(fq_parent *parent) {
    return parent->vacant[--parent->vacant_count];
}

static inline void fq_vacate(fq_parent *parent, uint32_t slot) {
    parent->held[slot].used = parent->held[slot].large = false;
    parent->vacant[parent->vacant_count++] = slot; /* the last one used is the first one used again: it is warm */
}

/* Hand over the payload that lies in a slot's area or in the file. */
static inline void fq_hand_over(fq_parent *parent, uint32_t slot, uint64_t ticket, uint64_t size, const void *payload) {
    fq_region *region = &parent->region;
    fq_slot *shared = &region->slots[slot];
    const uint64_t position = parent->tail;
    parent->held[slot] = (fq_held){ticket, position, true, size > FQ_AREA};
    parent->order[position & (region->shape.ring_size - 1)] = slot;
    parent->tail = (position + 1) & FQ_POSITION_MASK;
    fq_store(&shared->ticket, ticket, relaxed);
    fq_store(&shared->size, size, relaxed);
    fq_store(&shared->sum, fq_sum(position, ticket, size, payload), relaxed);
    fq_store(&shared->since, 0, relaxed);
    fq_store(&shared->mark, fq_mark(position, 0, FQ_WAITING), release);
    fq_store(&region->ring[position & (region->shape.ring_size - 1)], fq_entry(position, slot), release);
    fq_store(&region->header->tail, parent->tail, seq_cst);
}

/* Read the mark of a slot in use; false, and a flaw, if it can't be right. */
static inline bool fq_look(fq_parent *parent, uint32_t slot, uint64_t *mark) {
    *mark = fq_load(&parent->region.slots[slot].mark, acquire);
    if (!fq_is_sound(*mark) || fq_mark_position(*mark) != parent->held[slot].position)
        parent->flaw = "the mark of a slot is damaged";
    else if (fq_mark_state(*mark) < FQ_WAITING || fq_mark_state(*mark) > FQ_DONE)
        parent->flaw = fq_mark_state(*mark) == FQ_SPOILED ? "a child found a payload damaged" : "a mark has no such state";
    else if (fq_mark_child(*mark) >= parent->region.shape.children)
        parent->flaw = "a mark names a child that there isn't";
    else
        return true;
    return false;
}

/* Find a slot that is DONE. A bit for any other was invented by someone, and is passed over. */
static inline bool fq_next_done(fq_parent *parent, uint32_t *slot, uint64_t *mark) {
    fq_region *region = &parent->region;
    for (uint32_t i = 0; i * 64 < region->shape.capacity; i++) {
        if (!parent->pending[i] && fq_load(&region->done[i], relaxed))
            parent->pending[i] = fq_swap(&region->done[i], 0, acq_rel);
        while (parent->pending[i]) {
            *slot = i * 64 + (uint32_t)__builtin_ctzll(parent->pending[i]);
            parent->pending[i] &= parent->pending[i] - 1;
            if (*slot >= region->shape.capacity || !parent->held[*slot].used)
                continue;
            if (!fq_look(parent, *slot, mark))
                return false;
            if (fq_mark_state(*mark) == FQ_DONE)
                return true;
        }
    }
    return false;
}

/* Whether an outcome is there that `fq_next_done` has not returned. Sequentially consistent: see `armed`. */
static inline bool fq_any_done(fq_parent *parent) {
    for (uint32_t i = 0; i * 64 < parent->region.shape.capacity; i++)
        if (fq_load(&parent->region.done[i], seq_cst))
            return true;
    return false;
}

/* Ask not to be woken for a while; returns whether the bell rang. */
static inline bool fq_disarm(fq_parent *parent) {
    const uint32_t found = fq_swap(&parent->region.header->armed, FQ_DISARMED, acq_rel);
    const bool rang = parent->armed != FQ_DISARMED && found == FQ_DISARMED;
    parent->armed = FQ_DISARMED;
    return rang;
}

/* Say how to be woken, until the next time; returns false if there is no need to sleep. */
static inline bool fq_arm(fq_parent *parent, uint32_t how) {
    parent->armed = how;
    fq_store(&parent->region.header->armed, how, seq_cst);
    return how == FQ_WHEN_LOW || !fq_any_done(parent);
}

/* A dead child sleeps no more, and wakes nobody: someone else takes its turn. */
static inline void fq_forget_sleeper(fq_parent *parent, uint32_t child) {
    fq_clear(&parent->region.idle[child / 64], (uint64_t)1 << child % 64);
    fq_wake_anyway(parent);
}

/* Go through what may wait, in order; `back` counts and starts at 0. */
static inline bool fq_next_waiting(fq_parent *parent, uint64_t *back, uint32_t *slot) {
    const uint64_t ring_size = parent->region.shape.ring_size;
    while (*back < ring_size) {
        const uint64_t position = (parent->tail - ring_size + (*back)++) & FQ_POSITION_MASK;
        *slot = parent->order[position & (ring_size - 1)];
        if (parent->held[*slot].used && parent->held[*slot].position == position)
            return true;
    }
    return false;
}

/* Take back a payload that no child has claimed. */
static inline bool fq_take_back(fq_parent *parent, uint32_t slot) {
    const uint64_t position = parent->held[slot].position;
    uint64_t mark = fq_mark(position, 0, FQ_WAITING);
    return fq_cas(&parent->region.slots[slot].mark, &mark, fq_mark(position, 0, FQ_FREE));
}

/* After everything was taken back: nothing before tail waits. Children may push head along at the same time. */
static inline void fq_skip_to_tail(fq_parent *parent) {
    fq_word *head = &parent->region.header->head;
    uint64_t old = fq_load(head, acquire);
    while (old != parent->tail && !fq_cas(head, &old, parent->tail)) {
    }
}

/* Check all that can be checked, and find outcomes whose bits were lost. False for a flaw. */
static inline bool fq_inspect(fq_parent *parent) {
    fq_region *region = &parent->region;
    const uint64_t head = fq_load(&region->header->head, acquire); /* before the marks: it only goes forward */
    const uint64_t waiting = (parent->tail - head) & FQ_POSITION_MASK;
    uint64_t mark;
    if (memcmp(&region->header->shape, &region->shape, sizeof region->shape))
        parent->flaw = "the header is damaged";
    else if (fq_load(&region->header->tail, relaxed) != parent->tail || waiting > region->shape.ring_size)
        parent->flaw = "head or tail is damaged";
    for (uint32_t slot = 0; !parent->flaw && slot < region->shape.capacity; slot++) {
        if (!parent->held[slot].used || !fq_look(parent, slot, &mark))
            continue;
        const uint64_t position = parent->held[slot].position;
        if (fq_mark_state(mark) == FQ_DONE)
            parent->pending[slot / 64] |= (uint64_t)1 << slot % 64;
        else if (fq_mark_state(mark) != FQ_WAITING)
            continue;
        else if (((position - head) & FQ_POSITION_MASK) >= waiting)
            parent->flaw = "head is past a payload that waits";
        else if (fq_load(&region->ring[position & (region->shape.ring_size - 1)], relaxed) != fq_entry(position, slot))
            parent->flaw = "a ring entry is damaged";
    }
    return !parent->flaw;
}

#endif
