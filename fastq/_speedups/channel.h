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
 * sees a tail at least as new: head never seems to be past tail. Three pairs need more than that, since each
 * side writes one word and then reads the other's:
 *   parent: tail, then idle       child: idle, then tail        (a payload, or a sleeper, is noticed)
 *   parent: tail, then waking     child: waking, then tail      (a payload is noticed, or the next is woken for it)
 *   parent: armed, then done      child: done, then armed       (an outcome, or a waiting parent, is noticed)
 * Those accesses are sequentially consistent: in their single order one side comes second and sees the other.
 * On x86-64 that makes the writes locked instructions, and all the other accesses plain moves. On arm64 it is
 * STLR, LDAR and the acquire-release forms of the LSE atomics: an LDAR is not reordered before an earlier STLR,
 * nor before the store of an earlier atomic that releases. Nothing here depends on x86's stronger order.
 *
 * Trust. The parent keeps what matters in memory of its own (`fq_parent.held`) and takes the region for
 * what an untrusted process may have written: indices are bounded, lengths are bounded and read once,
 * payloads are copied out and their checks computed on the copy. What does not add up is a flaw.
 */
#ifndef FASTQ_CHANNEL_H
#define FASTQ_CHANNEL_H

#include "region.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>

static inline uint64_t fq_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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

/* Wake every sleeper, whatever the words say: who was waking another may have died or been stopped over it.
 * Children that find nothing lie down again, and put the words right. */
static inline void fq_wake_all(fq_region *region) {
    fq_store(&region->header->waking, 0, seq_cst);
    for (uint32_t child = 0; child < region->shape.children; child++) {
        fq_store(&region->beds[child].sleep, 0, seq_cst);
        syscall(SYS_futex, &region->beds[child].sleep, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
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
    fq_store(&region->beds[seat->child].sleep, 1, seq_cst);
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
    fq_store(&region->beds[seat->child].sleep, 0, relaxed);
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
    bool stopped;
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
    atomic_init(&region->header->stopped, parent->stopped);
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
    parent->stopped = true;
    fq_store(&parent->region.header->stopped, 1, seq_cst);
    fq_wake_all(&parent->region);
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

/* Read off whatever rang: the pipe does not block. */
static inline void fq_silence_bell(int bell) {
    char rings[512];
    while (read(bell, rings, sizeof rings) == (ssize_t)sizeof rings) {
    }
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
    fq_wake_all(&parent->region);
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
    else if (fq_load(&region->header->stopped, relaxed) != parent->stopped)
        parent->flaw = "the children were told to leave";
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
