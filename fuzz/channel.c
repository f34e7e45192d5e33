/* libFuzzer: a region full of rubbish is never followed out of bounds, by parent or child, and nobody loops over it.
 *
 * The input is laid over a region in which payloads wait, run and are done: each record is a place (4 bytes)
 * and a word (8 bytes) that is put there.
 */
#define _GNU_SOURCE
#include <stdlib.h>

#include "../fastq/_speedups/channel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHILDREN = 3, CAPACITY = 6 };

static fq_parent parent;

static void put(uint64_t ticket) {
    const uint32_t slot = fq_reserve(&parent);
    memset(fq_area(&parent.region, slot), (int)ticket, 50);
    fq_hand_over(&parent, slot, ticket, 50, fq_area(&parent.region, slot));
}

static void prepare(void) {
    if (!parent.held) {
        const fq_shape shape = fq_shape_of(CHILDREN, CAPACITY);
        fq_lay_out(&parent.region, shape, aligned_alloc(4096, shape.size));
        parent.held = calloc(CAPACITY, sizeof *parent.held);
        parent.order = calloc(shape.ring_size, sizeof *parent.order);
        parent.vacant = calloc(CAPACITY, sizeof *parent.vacant);
        parent.pending = calloc(1, sizeof *parent.pending);
    }
    fq_format(&parent);
    for (uint64_t ticket = 1; ticket <= CAPACITY - 1; ticket++)
        put(ticket);
    for (uint32_t child = 0; child < 2; child++) {
        fq_seat seat = {.region = parent.region, .child = child};
        if (fq_claim(&seat) != FQ_CLAIMED)
            abort();
        fq_begin(&seat);
        if (child)
            fq_end(&seat, 2, 50, fq_area(&parent.region, seat.slot));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    prepare();
    unsigned char *base = (unsigned char *)parent.region.header;
    const size_t front = (size_t)(parent.region.areas - base);
    for (; size >= 12; data += 12, size -= 12) {
        uint32_t place;
        memcpy(&place, data, 4);
        memcpy(base + place % (front - 8), data + 4, 8);
    }
    fq_seat seat = {.region = parent.region, .child = 2};
    for (int turn = 0; turn < 2 * CAPACITY && fq_claim(&seat) == FQ_CLAIMED; turn++) {
        if (seat.slot >= CAPACITY)
            abort();
        fq_begin(&seat);
        fq_give_back(&seat, turn % 2 ? FQ_DONE : FQ_SPOILED);
    }
    uint32_t slot;
    uint64_t mark, back = 0;
    fq_disarm(&parent);
    fq_inspect(&parent);
    fq_wake_one(&parent.region);
    for (int turn = 0; fq_next_done(&parent, &slot, &mark); turn++) {
        if (slot >= CAPACITY || fq_mark_child(mark) >= CHILDREN || turn > CAPACITY)
            abort();
        fq_vacate(&parent, slot);
    }
    while (fq_next_waiting(&parent, &back, &slot))
        if (fq_take_back(&parent, slot))
            fq_vacate(&parent, slot);
    fq_skip_to_tail(&parent);
    fq_arm(&parent, FQ_AT_ONCE);
    if (parent.vacant_count > CAPACITY)
        abort();
    return 0;
}
