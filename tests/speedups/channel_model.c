/* Tries the channel's protocol in every order: the functions of channel.h themselves, one shared access at a time.
 *
 * A parent and two children run as coroutines that stop before each access of the region (FQ_STEP). A schedule
 * is a list of choices; all schedules with at most so many preemptions are run one after another, as
 * in Musuvathi and Qadeer's "Iterative context bounding" (PLDI 2007). Switches where an actor sleeps or ends
 * are free. Nothing here has a timeout, so a wake-up that gets lost is a deadlock, and found. The first payload
 * takes until the second has ended, so that a payload which waits while a child sleeps is one too.
 *
 *   channel_model calm N     no harm is done
 *   channel_model kill N     child 0 is killed, at every step in turn; the parent buries it and starts another
 *   channel_model stop N     child 0 is stopped for good, at every step in turn; only the parent's tick helps
 *
 * N is the number of preemptions. The orders tried are those of sequential consistency; that the weaker ones
 * of C11 suffice is argued in channel.h, and tried by channel_race.c under ThreadSanitizer.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static void step(void);
static long model_syscall(long number, ...);
#define FQ_STEP() step()
#define syscall model_syscall
#include "../../fastq/_speedups/channel.h"
#undef syscall

enum { CHILDREN = 2, PAYLOADS = 3, CAPACITY = 2, STACK = 64 * 1024, DEEPEST = 4096 };
enum { PARENT = CHILDREN, ACTORS };
typedef enum { ABSENT, READY, ASLEEP, OVER } condition;

typedef struct {
    condition condition;
    bool started;
    fq_flag *bed; /* what it sleeps on; the parent sleeps on its bell */
    jmp_buf at;
    ucontext_t start;
    char stack[STACK];
} actor;

static actor actors[ACTORS];
static jmp_buf scheduler;
static int current;

/* -- the schedule -------------------------------------------------------------------------------------- */

static enum { CALM, KILL, STOP } harm;
static struct {
    unsigned char chosen, options;
} path[DEEPEST];
static int depth, known;
static int preemptions, most_preemptions;
static bool harmed;

static int choose(int options) {
    if (options == 1)
        return 0;
    if (depth == DEEPEST) {
        puts("a run is too long");
        exit(1);
    }
    if (depth == known) {
        path[known].chosen = 0;
        path[known++].options = (unsigned char)options;
    }
    return path[depth++].chosen;
}

/* Go on to the next path; false when there is none. */
static bool next_path(void) {
    while (known && path[known - 1].chosen + 1 == path[known - 1].options)
        known--;
    if (known)
        path[known - 1].chosen++;
    return known;
}

static void yield(void) {
    if (!_setjmp(actors[current].at))
        _longjmp(scheduler, 1);
}

static void step(void) {
    if (current >= 0) /* the checks after a run are no actor's */
        yield();
}

static void fail(const char *what, uint64_t ticket) {
    printf("%s (ticket %llu) after choices", what, (unsigned long long)ticket);
    for (int i = 0; i < known; i++)
        printf(" %d/%d", path[i].chosen, path[i].options);
    puts("");
    exit(1);
}

/* -- the system ----------------------------------------------------------------------------------------- */

static bool bell, death;

static long model_syscall(long number, ...) {
    va_list arguments;
    va_start(arguments, number);
    fq_flag *bed = va_arg(arguments, fq_flag *);
    const int operation = va_arg(arguments, int);
    va_end(arguments);
    step();
    if (operation == FUTEX_WAKE) {
        for (int i = 0; i < CHILDREN; i++)
            if (actors[i].condition == ASLEEP && actors[i].bed == bed)
                actors[i].condition = READY;
    } else if (atomic_load(bed) == 1) {
        actors[current].bed = bed;
        actors[current].condition = ASLEEP;
        yield();
    }
    return 0;
}

/* -- the actors ------------------------------------------------------------------------------------------- */

static unsigned char *base;
static fq_parent parent;
static int runs[PAYLOADS + 1], settled[PAYLOADS + 1], handed_over, settled_count;
static int again[PAYLOADS], again_count;

static void begin(int who);

static int sleeper; /* the child that runs the first payload, which takes until the second has ended */
static bool second_is_over;

static void sleep_until_second_ended(void) {
    step();
    if (second_is_over)
        return;
    sleeper = current;
    actors[current].bed = NULL;
    actors[current].condition = ASLEEP;
    yield();
}

static void second_ended(void) {
    second_is_over = true;
    if (sleeper >= 0 && actors[sleeper].condition == ASLEEP && !actors[sleeper].bed)
        actors[sleeper].condition = READY;
}

static void be_child(void) {
    const int child = current;
    fq_seat seat = {.child = (uint32_t)child};
    bool rose = false;
    fq_lay_out(&seat.region, parent.region.shape, base);
    fq_get_up(&seat);
    for (;;) {
        const bool stopped = fq_is_stopped(&seat.region);
        const fq_claim_result found = fq_claim(&seat);
        if (found == FQ_BROKEN)
            fail("a child finds the region broken", 0);
        if (found == FQ_CLAIMED) {
            if (rose)
                fq_wake_next(&seat);
            rose = false;
            const uint64_t ticket = fq_load(&seat.region.slots[seat.slot].ticket, relaxed);
            if (fq_area(&seat.region, seat.slot)[0] != ticket)
                fail("a child sees another payload", ticket);
            fq_begin(&seat);
            runs[ticket]++;
            if (ticket == 1 && harm != STOP)
                sleep_until_second_ended();
            fq_area(&seat.region, seat.slot)[0] = (unsigned char)(ticket + 100);
            const bool rings = fq_end(&seat, ticket, 1, fq_area(&seat.region, seat.slot));
            if (ticket == 2)
                second_ended();
            if (rings) {
                step();
                bell = true;
                if (actors[PARENT].condition == ASLEEP)
                    actors[PARENT].condition = READY;
            }
        } else if (stopped) {
            return;
        } else {
            rose = true;
            if (fq_lie_down(&seat))
                fq_sleep(&seat, 0);
            fq_get_up(&seat);
        }
    }
}

static void settle(uint64_t ticket) {
    if (settled[ticket]++)
        fail("a ticket is settled twice", ticket);
    settled_count++;
    if (ticket == 2)
        second_ended();
}

static void drain(void) {
    uint32_t slot;
    uint64_t mark;
    while (fq_next_done(&parent, &slot, &mark)) {
        const uint64_t ticket = parent.held[slot].ticket;
        if (fq_area(&parent.region, slot)[0] != ticket + 100)
            fail("the parent sees another outcome", ticket);
        if (runs[ticket] != 1)
            fail("what ended did not run once", ticket);
        fq_vacate(&parent, slot);
        settle(ticket);
    }
    if (parent.flaw)
        fail(parent.flaw, 0);
}

static void bury(void) {
    fq_inspect(&parent);
    drain();
    for (uint32_t slot = 0; slot < CAPACITY; slot++) {
        uint64_t mark;
        if (!parent.held[slot].used || !fq_look(&parent, slot, &mark) || fq_mark_child(mark) != 0)
            continue;
        const uint64_t ticket = parent.held[slot].ticket;
        if (fq_mark_state(mark) == FQ_RUNNING) {
            fq_vacate(&parent, slot);
            settle(ticket);
        } else if (fq_mark_state(mark) == FQ_TAKEN) {
            if (runs[ticket])
                fail("what ran is called unbegun", ticket);
            fq_vacate(&parent, slot);
            again[again_count++] = (int)ticket;
        }
    }
    fq_forget_sleeper(&parent, 0);
    begin(0);
}

static void put(uint64_t ticket) {
    const uint32_t slot = fq_reserve(&parent);
    fq_area(&parent.region, slot)[0] = (unsigned char)ticket;
    fq_hand_over(&parent, slot, ticket, 1, fq_area(&parent.region, slot));
    if (fq_anyone_idle(&parent.region))
        fq_wake_one(&parent.region);
}

static bool tick; /* the parent's timer: rings when nothing else goes on */

/* A child that was stopped may have a payload and never end it. */
static bool all_is_settled(void) {
    return settled_count >= PAYLOADS - (harm == STOP && harmed);
}

static void be_parent(void) {
    while (!all_is_settled()) {
        while (again_count && parent.vacant_count)
            put((uint64_t)again[--again_count]);
        while (handed_over < PAYLOADS && parent.vacant_count)
            put((uint64_t)++handed_over);
        fq_disarm(&parent);
        bell = false;
        if (death) {
            death = false;
            bury();
        }
        if (tick) {
            tick = false;
            fq_inspect(&parent);
            if (fq_waiting(&parent.region))
                fq_wake_all(&parent.region);
        }
        drain();
        const bool may_put = parent.vacant_count && (again_count || handed_over < PAYLOADS);
        if (fq_arm(&parent, FQ_AT_ONCE) && !may_put && !bell && !death && !all_is_settled()) {
            actors[PARENT].condition = ASLEEP;
            yield();
        }
    }
    fq_stop(&parent);
}

static void run_actor(void) {
    (current == PARENT ? be_parent : be_child)();
    actors[current].condition = OVER;
    _longjmp(scheduler, 1);
}

static void begin(int who) {
    actor *one = &actors[who];
    one->condition = READY;
    one->started = false;
    getcontext(&one->start);
    one->start.uc_stack.ss_sp = one->stack;
    one->start.uc_stack.ss_size = STACK;
    makecontext(&one->start, run_actor, 0);
}

/* -- one run ------------------------------------------------------------------------------------------------ */

/* Let an actor do one step. */
static void resume(int who) {
    current = who;
    if (_setjmp(scheduler)) {
        current = -1;
    } else if (actors[who].started) {
        _longjmp(actors[who].at, 1);
    } else {
        actors[who].started = true;
        setcontext(&actors[who].start);
    }
}

static void do_harm(void) {
    harmed = true;
    actors[0].condition = ABSENT;
    if (harm == KILL) {
        death = true;
        if (actors[PARENT].condition == ASLEEP)
            actors[PARENT].condition = READY;
    }
}

static void run(void) {
    int last = -1, ticks = 0;
    sleeper = -1;
    second_is_over = false;
    depth = preemptions = 0;
    harmed = bell = death = tick = false;
    memset(runs, 0, sizeof runs);
    memset(settled, 0, sizeof settled);
    handed_over = settled_count = again_count = 0;
    memset(base, 0, parent.region.shape.size);
    current = -1;
    parent.stopped = false;
    fq_format(&parent);
    for (int who = 0; who < ACTORS; who++)
        begin(who);
    for (;;) {
        int enabled[ACTORS + 1], count = 0;
        const bool goes_on = last >= 0 && actors[last].condition == READY;
        if (goes_on)
            enabled[count++] = last;
        if (!goes_on || preemptions < most_preemptions)
            for (int who = 0; who < ACTORS; who++)
                if (who != last && actors[who].condition == READY)
                    enabled[count++] = who;
        if (!count && actors[PARENT].condition == ASLEEP && harmed && harm == STOP && ticks++ < 4) {
            tick = true;
            actors[PARENT].condition = READY;
            continue;
        }
        if (!count)
            break;
        const bool may_harm = harm != CALM && !harmed && (actors[0].condition == READY || actors[0].condition == ASLEEP);
        const int chosen = choose(count + may_harm);
        if (chosen == count) {
            do_harm();
            continue;
        }
        preemptions += goes_on && chosen;
        last = enabled[chosen];
        resume(last);
    }
    for (int who = 0; who < ACTORS; who++)
        if (actors[who].condition != OVER && !(who == 0 && harmed && (harm == STOP || actors[PARENT].condition == OVER)))
            fail(who == PARENT ? "the parent sleeps for ever" : "a child sleeps for ever", (uint64_t)who);
    drain();
    uint64_t mark;
    for (uint32_t slot = 0; slot < CAPACITY; slot++)
        if (parent.held[slot].used && !(harmed && fq_look(&parent, slot, &mark) && fq_mark_child(mark) == 0 &&
                                        fq_mark_state(mark) >= FQ_TAKEN))
            fail("a payload was left behind", parent.held[slot].ticket);
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    harm = !strcmp(arguments[1], "kill") ? KILL : !strcmp(arguments[1], "stop") ? STOP : CALM;
    most_preemptions = atoi(arguments[2]);
    const fq_shape shape = fq_shape_of(CHILDREN, CAPACITY);
    base = aligned_alloc(4096, shape.size);
    fq_lay_out(&parent.region, shape, base);
    parent.held = calloc(CAPACITY, sizeof *parent.held);
    parent.order = calloc(shape.ring_size, sizeof *parent.order);
    parent.vacant = calloc(CAPACITY, sizeof *parent.vacant);
    parent.pending = calloc(1, sizeof *parent.pending);
    unsigned long schedules = 0;
    do {
        run();
        schedules++;
    } while (next_path());
    printf("%s, %d preemptions: %lu schedules, every ticket settled once\n", arguments[1], most_preemptions, schedules);
    return 0;
}
