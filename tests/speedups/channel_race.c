/* Runs the channel's protocol on threads, for ThreadSanitizer to hold every plain access against the atomics.
 *
 * The payloads are plain memory: a report means that a mark's release and acquire don't order them.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../fastq/_speedups/channel.h"

enum { CHILDREN = 3, CAPACITY = 20 };

static fq_parent parent;
static _Atomic bool bell;

static void *be_child(void *number) {
    fq_seat seat = {.region = parent.region, .child = (uint32_t)(uintptr_t)number};
    char copy[256];
    for (;;) {
        const bool stopped = fq_is_stopped(&seat.region);
        const fq_claim_result found = fq_claim(&seat);
        if (found == FQ_BROKEN)
            abort();
        if (found == FQ_EMPTY) {
            if (stopped)
                return NULL;
            if (fq_lie_down(&seat))
                fq_sleep(&seat, 1000000000);
            fq_get_up(&seat);
            continue;
        }
        fq_wake_next(&seat);
        fq_slot *slot = &seat.region.slots[seat.slot];
        const uint64_t ticket = fq_read(&slot->ticket), size = fq_read(&slot->size);
        memcpy(copy, fq_area(&seat.region, seat.slot), size);
        if (fq_sum(seat.position, ticket, size, copy) != fq_read(&slot->sum))
            abort();
        fq_begin(&seat);
        memset(fq_area(&seat.region, seat.slot), (int)ticket, size);
        if (fq_end(&seat, ticket, size, fq_area(&seat.region, seat.slot)))
            atomic_store(&bell, true);
    }
}

static uint64_t drain(void) {
    uint32_t slot;
    uint64_t mark, drained = 0;
    char copy[256];
    for (; fq_next_done(&parent, &slot, &mark); drained++) {
        const uint64_t size = fq_read(&parent.region.slots[slot].size);
        memcpy(copy, fq_area(&parent.region, slot), size);
        if (fq_sum(parent.held[slot].position, parent.held[slot].ticket, size, copy) !=
            fq_read(&parent.region.slots[slot].sum))
            abort();
        fq_vacate(&parent, slot);
    }
    return drained;
}

int main(int count, char **arguments) {
    const uint64_t payloads = count > 1 ? strtoull(arguments[1], NULL, 10) : 100000;
    const fq_shape shape = fq_shape_of(CHILDREN, CAPACITY);
    fq_lay_out(&parent.region, shape, aligned_alloc(4096, shape.size));
    parent.held = calloc(CAPACITY, sizeof *parent.held);
    parent.order = calloc(shape.ring_size, sizeof *parent.order);
    parent.vacant = calloc(CAPACITY, sizeof *parent.vacant);
    parent.pending = calloc(1, sizeof *parent.pending);
    fq_format(&parent);
    pthread_t threads[CHILDREN];
    for (uintptr_t child = 0; child < CHILDREN; child++)
        pthread_create(&threads[child], NULL, be_child, (void *)child);
    uint64_t put = 0, ended = 0;
    while (ended < payloads) {
        for (; put < payloads && parent.vacant_count; put++) {
            const uint32_t slot = fq_reserve(&parent);
            memset(fq_area(&parent.region, slot), (int)put, 1 + put % 200);
            fq_hand_over(&parent, slot, put + 1, 1 + put % 200, fq_area(&parent.region, slot));
            if (fq_anyone_idle(&parent.region))
                fq_wake_one(&parent.region);
        }
        if (put % 1000 == 0)
            fq_inspect(&parent);
        fq_disarm(&parent);
        atomic_store(&bell, false);
        ended += drain();
        if (parent.flaw) {
            puts(parent.flaw);
            return 1;
        }
        if (fq_arm(&parent, put % 2 ? FQ_AT_ONCE : FQ_WHEN_LOW))
            for (int patience = 0; !atomic_load(&bell) && patience < 1000 && ended < payloads; patience++)
                sched_yield();
    }
    fq_stop(&parent);
    for (int child = 0; child < CHILDREN; child++)
        pthread_join(threads[child], NULL);
    printf("%llu payloads between threads\n", (unsigned long long)ended);
    return 0;
}
