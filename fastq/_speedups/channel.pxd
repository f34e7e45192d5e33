"""What channel_c.pyx stands on: the system, channel.h, and what parent and child have in common."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "Python.h":
    uint64_t PyLong_AsUnsignedLongLong(object) except? <uint64_t>-1

cdef extern from "pthread.h" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)

cdef extern from "<unistd.h>" nogil:
    int close(int file)

cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ, PROT_WRITE, MAP_SHARED, MADV_DONTFORK
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int protection, int flags, int file, long offset)
    int munmap(void *at, size_t size)
    int madvise(void *at, size_t size, int advice)

cdef extern from "<sys/timerfd.h>" nogil:
    enum: TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME, CLOCK_MONOTONIC
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int file, int flags, const itimerspec *new, itimerspec *old)

cdef extern from "channel.h" nogil:
    const uint64_t FQ_MAX_CHILDREN, FQ_MAX_CAPACITY, FQ_AREA, FQ_EXTENT

    enum: FQ_WAITING, FQ_TAKEN, FQ_RUNNING, FQ_DONE, FQ_SPOILED
    enum: FQ_DISARMED, FQ_WHEN_LOW, FQ_AT_ONCE
    enum: FQ_CLAIMED, FQ_EMPTY, FQ_BROKEN

    ctypedef struct fq_word:
        pass
    ctypedef struct fq_shape:
        uint64_t children, capacity, ring_size, low, size
    ctypedef struct fq_slot:
        fq_word mark, since, ticket, size, sum
    ctypedef struct fq_region:
        fq_shape shape
        fq_slot *slots
    ctypedef struct fq_file:
        int number
    ctypedef struct fq_seat:
        fq_region region
        fq_file file, bell
        uint32_t child, slot
        uint64_t position
    ctypedef struct fq_held:
        uint64_t ticket, position
        bint used, large
    ctypedef struct fq_parent:
        fq_region region
        fq_held *held
        uint32_t *order
        uint32_t *vacant
        uint32_t vacant_count
        uint64_t *pending
        bint stopped
        const char *flaw

    uint64_t fq_now()
    uint64_t fq_read(fq_word *word)
    uint64_t fq_sum(uint64_t position, uint64_t ticket, uint64_t size, const void *data)
    bint fq_is_sound(uint64_t mark)
    uint64_t fq_mark_position(uint64_t mark)
    uint32_t fq_mark_child(uint64_t mark)
    int fq_mark_state(uint64_t mark)
    fq_shape fq_shape_of(uint32_t children, uint32_t capacity)
    bint fq_shape_is_sound(const fq_shape *shape)
    void fq_lay_out(fq_region *region, fq_shape shape, void *base)
    void *fq_area(const fq_region *region, uint32_t slot)
    uint64_t fq_extent(const fq_region *region, uint32_t slot)
    bint fq_wake_one(fq_region *region)
    void fq_wake_all(fq_region *region)
    bint fq_anyone_idle(const fq_region *region)
    uint64_t fq_waiting(const fq_region *region)
    int fq_write_at(int file, const char *data, uint64_t size, uint64_t at)
    int fq_read_at(int file, char *data, uint64_t size, uint64_t at)
    bint fq_has_data(int file, uint64_t size, uint64_t at)
    void fq_punch(int file, uint64_t at)

    int fq_take_seat(fq_seat *seat, uint32_t child, int file, int bell)
    bint fq_is_itself(const fq_file *file)
    int fq_claim(fq_seat *seat)
    void fq_begin(fq_seat *seat)
    bint fq_give_back(fq_seat *seat, int state)
    bint fq_end(fq_seat *seat, uint64_t ticket, uint64_t size, const void *outcome)
    int fq_ring_bell(const fq_seat *seat)
    bint fq_is_orphaned(const fq_seat *seat)
    bint fq_is_stopped(const fq_region *region)
    bint fq_lie_down(fq_seat *seat)
    void fq_sleep(fq_seat *seat, uint64_t nanoseconds)
    void fq_get_up(fq_seat *seat)
    void fq_wake_next(fq_seat *seat)

    void fq_format(fq_parent *parent)
    void fq_stop(fq_parent *parent)
    uint32_t fq_reserve(fq_parent *parent)
    void fq_vacate(fq_parent *parent, uint32_t slot)
    void fq_hand_over(fq_parent *parent, uint32_t slot, uint64_t ticket, uint64_t size, const void *payload)
    bint fq_look(fq_parent *parent, uint32_t slot, uint64_t *mark)
    bint fq_next_done(fq_parent *parent, uint32_t *slot, uint64_t *mark)
    bint fq_arm(fq_parent *parent, uint32_t how)
    bint fq_disarm(fq_parent *parent)
    void fq_silence_bell(int bell)
    void fq_forget_sleeper(fq_parent *parent, uint32_t child)
    bint fq_next_waiting(fq_parent *parent, uint64_t *back, uint32_t *slot)
    bint fq_take_back(fq_parent *parent, uint32_t slot)
    void fq_skip_to_tail(fq_parent *parent)
    bint fq_inspect(fq_parent *parent)


cdef inline uint64_t ticket_of(object ticket) except 0:
    cdef uint64_t number = 0
    try:
        number = PyLong_AsUnsignedLongLong(ticket)
    except OverflowError:
        pass
    if not number:
        raise ValueError(f"a ticket is a number from 1 to 2**64 - 1, not {ticket}")
    return number


cdef inline void *map_region(int file, size_t size) except NULL:
    cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
    if base == MAP_FAILED:
        raise OSError(ENOMEM, f"{size} bytes of shared memory can't be mapped")
    return base


cdef inline bytes received(const fq_region *region, int file, uint32_t slot, uint64_t size):
    """Copy a payload out; None if its size can't be right."""
    cdef uint64_t at = fq_extent(region, slot)
    cdef char *to
    cdef int error
    if size <= FQ_AREA:
        return PyBytes_FromStringAndSize(<char *>fq_area(region, slot), size)
    if size > FQ_EXTENT or not fq_has_data(file, size, at):
        return None
    payload = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(payload)
    with nogil:
        error = fq_read_at(file, to, size, at)
    return None if error else payload
