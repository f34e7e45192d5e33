# cython: language_level=3, boundscheck=False, wraparound=False
"""The pool channel over shared memory, compiled: the contract of `channel_py`. The protocol is in channel.h.

Every method of `Channel` runs under the GIL but for the copying of large payloads, during which the slot is
reserved; no state is left half-changed where Python code could run.
"""

import os
import select

from .channel_py import Burial, Salvage, nameless_file

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.errno cimport EBADF, EMFILE, EPIPE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from .channel cimport *


# In nanoseconds.
cdef enum:
    BUSY_TICK = 1_000_000  # while more waits than the children start in that time, the parent looks this often
    WAKE_TICK = 20_000_000  # a child that was woken and has not come by now was stopped: wake the others
    CARE_TICK = 1_000_000_000  # how often the region is inspected while anything is in it
    NAP = 1_000_000_000  # how long a child sleeps at most, in case its wake-up was lost with a damaged word


cdef class Channel:
    """The parent's end. One thread may `take` and `bury` while another puts and withdraws."""

    cdef fq_parent parent
    cdef void *base
    cdef int file, bell, far_bell, timer
    cdef object waiting  # an epoll object over the bell and the timer
    cdef list kept  # ended payloads that are not returned yet
    cdef uint64_t tick_at, inspect_at  # when the timer rings, when the region is to be inspected; 0: not set

    def __cinit__(self):
        self.file = self.bell = self.far_bell = self.timer = -1

    def __init__(self, children, capacity):
        """Make a channel for up to `children` seats and `capacity` payloads that wait or run.

        Raises OSError when the system has no descriptors or memory left, ValueError for numbers out of range.
        """
        if self.base != NULL:
            raise RuntimeError("a channel is made once")
        if not (0 < children <= FQ_MAX_CHILDREN and 0 < capacity <= FQ_MAX_CAPACITY):
            raise ValueError(
                f"a channel has 1 to {FQ_MAX_CHILDREN} children and a capacity of 1 to {FQ_MAX_CAPACITY}, "
                f"not {children} and {capacity}"
            )
        cdef fq_shape shape = fq_shape_of(children, capacity)
        cdef fq_parent *parent = &self.parent
        parent.held = <fq_held *>PyMem_Calloc(capacity, sizeof(fq_held))
        parent.order = <uint32_t *>PyMem_Calloc(shape.ring_size, sizeof(uint32_t))
        parent.vacant = <uint32_t *>PyMem_Calloc(capacity, sizeof(uint32_t))
        parent.pending = <uint64_t *>PyMem_Calloc((capacity + 63) // 64, sizeof(uint64_t))
        if not (parent.held and parent.order and parent.vacant and parent.pending):
            raise MemoryError
        self.kept = []
        self.file = nameless_file("fastq-channel", shape.size)
        self.bell, self.far_bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if self.timer < 0:
            raise OSError(EMFILE, "no timer for the channel")
        self.waiting = select.epoll()
        self.waiting.register(self.bell, select.EPOLLIN)
        self.waiting.register(self.timer, select.EPOLLIN)
        self.base = map_region(self.file, shape.size)
        fq_lay_out(&parent.region, shape, self.base)
        fq_format(parent)

    def __dealloc__(self):
        self.let_go()
        PyMem_Free(self.parent.held)
        PyMem_Free(self.parent.order)
        PyMem_Free(self.parent.vacant)
        PyMem_Free(self.parent.pending)

    def fds(self):
        """Return the descriptors that a child needs; they are to be inherited under the same numbers."""
        return (self.file, self.far_bell)

    def put(self, ticket, bytes payload not None):
        """Hand over a payload; returns False, and does nothing, when the channel is full, stopped or damaged."""
        cdef uint64_t number = ticket_of(ticket)
        cdef uint64_t size = PyBytes_GET_SIZE(payload)
        cdef const char *data = PyBytes_AS_STRING(payload)
        cdef fq_parent *parent = self.opened()
        cdef uint32_t slot
        if size > FQ_EXTENT:
            raise ValueError(f"a payload of {size} bytes is over the limit of {FQ_EXTENT}")
        if parent.stopped or parent.flaw != NULL or not parent.vacant_count:
            return False
        slot = fq_reserve(parent)
        if size <= FQ_AREA:
            memcpy(fq_area(&parent.region, slot), data, size)
        elif error := self.write_file(data, size, slot):
            fq_punch(self.file, fq_extent(&parent.region, slot))
            fq_vacate(parent, slot)
            raise OSError(error, f"a payload of {size} bytes can't be written: {os.strerror(error)}")
        fq_hand_over(parent, slot, number, size, data)
        if fq_anyone_idle(&parent.region):
            fq_wake_one(&parent.region)
            self.inspect_within(WAKE_TICK)
        elif not self.inspect_at:
            self.inspect_within(CARE_TICK)
        return True

    def fileno(self):
        """Return a descriptor that is readable while an ended payload waits for `take`."""
        return self.waiting.fileno()

    def take(self):
        """Return (child, ticket, payload) of the ended payloads that are there, without waiting.

        Raises BufferError when the shared memory is damaged: kill the children, then `rebuild`.
        """
        cdef fq_parent *parent = self.opened()
        cdef uint64_t now = fq_now()
        cdef bint ticked = self.tick_at and now >= self.tick_at
        cdef bint rung = fq_disarm(parent)
        if self.inspect_at and now >= self.inspect_at:
            self.inspect_at = 0
            fq_inspect(parent)
            if fq_waiting(&parent.region):
                fq_wake_all(&parent.region)
                self.inspect_within(WAKE_TICK)
        self.collect_done()
        if ticked:
            self.tick_at = 0
        if rung or not (ticked or self.kept):
            fq_silence_bell(self.bell)
        if self.kept and fq_waiting(&parent.region) > parent.region.shape.low:
            fq_arm(parent, FQ_WHEN_LOW)
            self.tick(now + BUSY_TICK)
        elif not fq_arm(parent, FQ_AT_ONCE):  # something ended in between
            self.collect_done()
            self.tick(1)
        if not self.inspect_at and parent.vacant_count < parent.region.shape.capacity:
            self.inspect_within(CARE_TICK)
        if ticked and not self.tick_at:
            self.tick(self.inspect_at)
        return self.handed_out()

    def withdraw(self):
        """Take back everything that no child has taken yet, and return its tickets in order."""
        cdef fq_parent *parent = self.opened()
        cdef uint64_t back = 0
        cdef uint32_t slot
        tickets = []
        while fq_next_waiting(parent, &back, &slot):
            if fq_take_back(parent, slot):
                tickets.append(self.vacated(slot))
        fq_skip_to_tail(parent)
        return tickets

    def running(self):
        """Return (child, ticket, since) for every child that has a payload; `since` is monotonic seconds."""
        cdef fq_parent *parent = self.opened()
        cdef uint64_t mark, since
        cdef uint32_t slot
        found = []
        for slot in range(parent.region.shape.capacity):
            if not parent.held[slot].used or not fq_look(parent, slot, &mark):
                continue
            if fq_mark_state(mark) == FQ_TAKEN or fq_mark_state(mark) == FQ_RUNNING:
                since = fq_read(&parent.region.slots[slot].since) or fq_now()
                found.append((fq_mark_child(mark), parent.held[slot].ticket, since / 1e9))
        found.sort()
        return found

    def bury(self, child):
        """Settle the accounts of a dead child, before another takes its place: what it ended, what it was
        running, what it never began.

        Raises BufferError like `take`.
        """
        cdef fq_parent *parent = self.opened()
        cdef uint64_t mark
        cdef uint32_t slot
        if not 0 <= child < parent.region.shape.children:
            raise ValueError(f"there is no child {child}")
        running = 0
        unbegun = []
        fq_inspect(parent)
        self.collect_done()
        for slot in range(parent.region.shape.capacity):
            if parent.flaw != NULL:
                break
            if not parent.held[slot].used or not fq_look(parent, slot, &mark) or fq_mark_child(mark) != child:
                continue
            if fq_mark_state(mark) == FQ_TAKEN:
                unbegun.append(self.vacated(slot))
            elif fq_mark_state(mark) == FQ_RUNNING and not running:
                running = self.vacated(slot)
            elif fq_mark_state(mark) == FQ_RUNNING:
                parent.flaw = b"two payloads are marked as run by one child"
        fq_forget_sleeper(parent, child)
        if not fq_arm(parent, FQ_AT_ONCE):
            self.tick(1)
        return Burial(self.handed_out(running or unbegun), running, unbegun)

    def rebuild(self):
        """Begin afresh with the same descriptors, after damage, when all the children are dead."""
        cdef fq_parent *parent = self.opened()
        cdef uint64_t mark
        cdef uint32_t slot
        cdef int state
        doubtful = []
        unbegun = []
        for slot in range(parent.region.shape.capacity):
            if not parent.held[slot].used:
                continue
            mark = fq_read(&parent.region.slots[slot].mark)
            state = -1
            if fq_is_sound(mark) and fq_mark_position(mark) == parent.held[slot].position:
                state = fq_mark_state(mark)
            if state == FQ_DONE and self.collect(slot, mark):
                continue
            if state == FQ_WAITING or state == FQ_TAKEN or state == FQ_SPOILED:
                unbegun.append(self.vacated(slot))
            else:
                doubtful.append(self.vacated(slot))
        fq_format(parent)
        ended, self.kept = self.kept, []
        self.inspect_at = 0
        self.tick(0)
        return Salvage(ended, doubtful, unbegun)

    def stop(self):
        """Tell the children that nothing more will come: each leaves once it has ended what it runs."""
        if self.base != NULL:
            fq_stop(&self.parent)

    def close(self):
        """Let go of every descriptor. May be called twice."""
        if self.waiting is not None:
            self.waiting.close()
        self.let_go()

    cdef fq_parent *opened(self) except NULL:
        if self.base == NULL:
            raise OSError(EBADF, "the channel is closed")
        return &self.parent

    cdef int collect_done(self) except -1:
        cdef uint64_t mark
        cdef uint32_t slot
        while fq_next_done(&self.parent, &slot, &mark) and self.collect(slot, mark):
            pass
        return 0

    cdef bint collect(self, uint32_t slot, uint64_t mark) except -1:
        """Copy an outcome out, check the copy, and let the slot go. False for a flaw."""
        cdef fq_parent *parent = &self.parent
        cdef fq_held *held = &parent.held[slot]
        cdef fq_slot *shared = &parent.region.slots[slot]
        cdef uint64_t size = fq_read(&shared.size)
        payload = received(&parent.region, self.file, slot, size)
        if self.base == NULL or payload is None or fq_read(&shared.sum) != fq_sum(
            held.position, held.ticket, size, PyBytes_AS_STRING(payload)
        ):
            parent.flaw = b"an outcome is damaged"
            return False
        held.large |= size > FQ_AREA
        self.kept.append((fq_mark_child(mark), held.ticket, payload))
        self.vacated(slot)
        return True

    cdef object vacated(self, uint32_t slot):
        """Let a slot go; returns the ticket that it had."""
        ticket = self.parent.held[slot].ticket
        if self.parent.held[slot].large:
            fq_punch(self.file, fq_extent(&self.parent.region, slot))
        fq_vacate(&self.parent, slot)
        return ticket

    cdef list handed_out(self, also=None):
        """Return what was kept, or raise for a flaw when there is nothing left to return, nor anything `also`."""
        if self.parent.flaw != NULL:
            self.tick(1)  # `fileno` stays readable until `rebuild`
            if not self.kept and not also:
                raise BufferError(f"the channel's shared memory is damaged: {self.parent.flaw.decode()}")
        ended, self.kept = self.kept, []
        return ended

    cdef int write_file(self, const char *data, uint64_t size, uint32_t slot) except -1:
        cdef uint64_t at = fq_extent(&self.parent.region, slot)
        cdef int error
        with nogil:
            error = fq_write_at(self.file, data, size, at)
        self.opened()
        return error

    cdef void inspect_within(self, uint64_t nanoseconds) noexcept:
        cdef uint64_t at = fq_now() + nanoseconds
        if not self.inspect_at or at < self.inspect_at:
            self.inspect_at = at
            self.tick(at)

    cdef void tick(self, uint64_t at) noexcept:
        """Have the timer ring at a time; 0 silences it. An earlier time than this stays."""
        cdef itimerspec when
        if at and self.tick_at and self.tick_at <= at:
            return
        when.it_interval.tv_sec = when.it_interval.tv_nsec = 0
        when.it_value.tv_sec = at // 1_000_000_000
        when.it_value.tv_nsec = at % 1_000_000_000
        timerfd_settime(self.timer, TFD_TIMER_ABSTIME, &when, NULL)
        self.tick_at = at

    cdef void let_go(self) noexcept:
        if self.base != NULL:
            munmap(self.base, self.parent.region.shape.size)
            self.base = NULL
        if self.file >= 0:
            close(self.file)
        if self.bell >= 0:
            close(self.bell)
            close(self.far_bell)
        if self.timer >= 0:
            close(self.timer)
        self.file = self.bell = self.far_bell = self.timer = -1


cdef class Seat:
    """A child's end: `get` a payload, then `end` it, one at a time."""

    cdef fq_seat seat
    cdef void *base
    cdef uint64_t ticket  # of the payload that this child has, or 0
    cdef bint begun, waiting
    cdef bint rose  # slept since the last claim
    cdef uint64_t generation

    def __init__(self, fds, child):
        """Take place number `child` on the inherited descriptors of `Channel.fds`."""
        if self.base != NULL:
            raise RuntimeError("a seat is taken once")
        file, bell = fds
        cdef fq_shape shape
        header = os.pread(file, sizeof(shape), 0)
        if len(header) != sizeof(shape):
            raise ValueError(f"descriptor {file} is not a channel's")
        memcpy(&shape, PyBytes_AS_STRING(header), sizeof(shape))
        if not fq_shape_is_sound(&shape) or os.fstat(file).st_size < shape.size:
            raise ValueError(f"descriptor {file} is not a channel's")
        if not 0 <= child < shape.children:
            raise ValueError(f"there is no child {child}")
        if error := fq_take_seat(&self.seat, child, file, bell):
            raise OSError(error, f"the channel's descriptors can't be used: {os.strerror(error)}")
        self.base = map_region(file, shape.size)
        madvise(self.base, shape.size, MADV_DONTFORK)
        fq_lay_out(&self.seat.region, shape, self.base)
        fq_get_up(&self.seat)
        self.generation = forks

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.seat.region.shape.size)

    def get(self, timeout=None):
        """Return the next (ticket, payload), or None after `timeout` seconds without one.

        Raises EOFError once the channel is stopped and empty, and in a process that is only a fork of the
        child; BufferError when the shared memory is damaged.
        """
        cdef uint64_t now, deadline = 0
        cdef bint stopped
        cdef int found
        self.check_process()
        if self.begun or self.waiting:
            raise RuntimeError("a child has one payload at a time, and has not ended the last")
        if timeout is not None:
            deadline = fq_now() + <uint64_t>(min(max(timeout, 0), 1e9) * 1e9)
        while True:
            stopped = fq_is_stopped(&self.seat.region)  # before looking: what was put before the stop is seen
            found = FQ_CLAIMED if self.ticket else fq_claim(&self.seat)
            if found == FQ_CLAIMED:
                if self.rose:
                    fq_wake_next(&self.seat)
                    self.rose = False
                payload = self.claimed()
                if payload is not None:
                    fq_begin(&self.seat)
                    self.begun = True
                    return self.ticket, payload
            elif found == FQ_BROKEN:
                raise BufferError("the channel's shared memory is damaged")
            elif stopped:
                raise EOFError("the channel is stopped")
            elif deadline == 0:
                self.sleep(NAP)
            else:
                now = fq_now()
                if now >= deadline:
                    return None
                self.sleep(min(deadline - now, <uint64_t>NAP))

    def end(self, ticket, bytes payload not None):
        """Send back what came of a ticket.

        Raises ValueError for a ticket that this child doesn't have, EOFError where `get` does for a fork. After
        any OSError but EPIPE, when the pool is gone, the ticket can be ended with a smaller payload.
        """
        cdef uint64_t size = PyBytes_GET_SIZE(payload)
        cdef const char *data = PyBytes_AS_STRING(payload)
        cdef uint64_t at = fq_extent(&self.seat.region, self.seat.slot)
        cdef int error
        self.check_process()
        if not self.begun or ticket_of(ticket) != self.ticket:
            raise ValueError(f"this child doesn't have ticket {ticket}")
        if size > FQ_EXTENT:
            raise ValueError(f"a payload of {size} bytes is over the limit of {FQ_EXTENT}")
        if size <= FQ_AREA:
            memcpy(fq_area(&self.seat.region, self.seat.slot), data, size)
        else:
            self.check_file()
            with nogil:
                error = fq_write_at(self.seat.file.number, data, size, at)
            if error:
                raise OSError(error, f"a payload of {size} bytes can't be written: {os.strerror(error)}")
        rings = fq_end(&self.seat, self.ticket, size, data)
        self.ticket = 0
        self.begun = False
        if rings:
            self.ring_bell()

    cdef bytes claimed(self):
        """Copy the payload out and check the copy; None, and the slot is given back, if it is damaged."""
        cdef fq_slot *shared = &self.seat.region.slots[self.seat.slot]
        cdef uint64_t size = fq_read(&shared.size)
        self.ticket = fq_read(&shared.ticket)
        if size > FQ_AREA:
            self.check_file()
        payload = received(&self.seat.region, self.seat.file.number, self.seat.slot, size)
        if payload is not None and fq_read(&shared.sum) == fq_sum(
            self.seat.position, self.ticket, size, PyBytes_AS_STRING(payload)
        ):
            return payload
        self.ticket = 0
        if fq_give_back(&self.seat, FQ_SPOILED):
            self.ring_bell()
        return None

    cdef int sleep(self, uint64_t nanoseconds) except -1:
        cdef uint64_t before = fq_now()
        self.waiting = self.rose = True
        if fq_lie_down(&self.seat):
            with nogil:
                fq_sleep(&self.seat, nanoseconds)
        fq_get_up(&self.seat)
        self.waiting = False
        PyErr_CheckSignals()
        if fq_now() - before >= NAP and fq_is_orphaned(&self.seat):
            raise EOFError("the pool is gone")
        return 0

    cdef int ring_bell(self) except -1:
        error = fq_ring_bell(&self.seat)
        if error == EPIPE:
            raise OSError(error, "the pool is gone")
        if error:
            raise OSError(error, "the channel's descriptors were closed or replaced in this process")
        return 0

    cdef int check_file(self) except -1:
        if not fq_is_itself(&self.seat.file):
            raise OSError(EBADF, "the channel's descriptors were closed or replaced in this process")
        return 0

    cdef int check_process(self) except -1:
        if self.base == NULL:
            raise OSError(EBADF, "this seat was never taken")
        if self.generation != forks:
            raise EOFError("this process is a fork of a pool child, and has no seat of its own")
        return 0


# -- both ends --------------------------------------------------------------------------------------

cdef uint64_t forks = 0  # how many processes lie between this one and the one that imported the module


cdef void count_fork() noexcept nogil:
    global forks
    forks += 1


if pthread_atfork(NULL, NULL, count_fork):
    raise MemoryError
