# cython: language_level=3, boundscheck=False, wraparound=False
"""AMQP 0-9-1 on rabbitmq-c, compiled: the contract of `amqp_py`.

The library packs and reads methods, properties and tables. Frames and the socket stay with us: its own calls block
while the server doesn't read, make a system call or more a frame, and know no deadline.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from .amqp cimport *
from .amqp_tables_c cimport *

from .amqp_link import Link
from .amqp_methods import RECEIVED, SENT, WITH_CONTENT, Method
from .amqp_values import MAX_BODY, Properties, Received


cdef enum:
    METHOD = 1, HEADER = 2, BODY = 3, HEARTBEAT = 8
    FRAME_END = 0xCE
    HEAD = 7  # bytes of a frame before its payload
    OVERHEAD = 8  # and those around it
    BASIC = 60
    CHUNK = 65536

cdef enum:  # as in `Method`
    ACK = 60 << 16 | 80
    PUBLISH = 60 << 16 | 40
    DELIVER = 60 << 16 | 60

cdef uint64_t LARGEST_BODY = MAX_BODY
cdef dict METHODS = {int(method): method for method in Method}
cdef object GET_OK = Method.BASIC_GET_OK
cdef dict SIZES = {"b": 1, "o": 1, "B": 2, "l": 4, "L": 8, "s": 1, "S": 4, "F": 4}  # at the least
cdef object make = tuple.__new__
cdef object NO_PROPERTIES = Properties()

cdef class Codec:
    """The codec of one connection with one channel, as `amqp_py.Codec`."""

    cdef public uint32_t frame_max
    cdef amqp_pool_t pool
    cdef uint8_t *unread  # what was fed and is not a whole frame yet
    cdef size_t unread_size, unread_room
    cdef uint8_t *out
    cdef size_t out_size, out_room
    cdef object begun  # the method whose header or body is still to come
    cdef list begun_args
    cdef object properties
    cdef str flaw
    cdef list body
    cdef uint64_t missing
    cdef bytes last_packed  # properties as they came, and as they were read
    cdef object last_properties
    cdef str last_tag, last_exchange, last_key

    def __cinit__(self):
        init_amqp_pool(&self.pool, 4096)
        self.frame_max = 4096
        self.last_packed = b""
        self.last_tag = self.last_exchange = self.last_key = ""

    def __dealloc__(self):
        empty_amqp_pool(&self.pool)
        PyMem_Free(self.unread)
        PyMem_Free(self.out)

    def method(self, method, *args):
        cdef uint32_t number = method
        cdef amqp_bytes_t space
        cdef size_t size = 0
        self.out_size = 0
        form, fixed = SENT[method]
        try:
            given = iter(args)
            space = self.space(HEAD + 4)
            self.fill(form, [fixed[place] if place in fixed else next(given) for place in range(len(form))], space, &size)
            fq_put32(self.put_frame(METHOD, 0 if number >> 16 == 10 else 1, 4 + size), number)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{method.name} can't be called with {args!r}: {error}") from None
        finally:
            recycle_amqp_pool(&self.pool)
        return self.written()

    def acks(self, tags):
        cdef amqp_basic_ack_t ack
        memset(&ack, 0, sizeof(ack))
        self.out_size = 0
        for tag in tags:
            ack.delivery_tag = number(tag, <uint64_t>-1)
            self.put_method(ACK, 1, &ack)
        return self.written()

    def publications(self, batch):
        cdef amqp_basic_publish_t publish
        cdef bytes body, packed = b""
        cdef Py_ssize_t count = 0
        cdef list pieces = []
        cdef object exchange, routing_key, properties, last = None, mandatory
        memset(&publish, 0, sizeof(publish))
        self.out_size = 0
        for message in batch:
            exchange, routing_key, body, properties, mandatory = message
            if <uint64_t>PyBytes_GET_SIZE(body) > LARGEST_BODY:
                raise ValueError(f"a body of {len(body)} bytes is over the limit of {MAX_BODY}")
            if properties is not last:
                packed = self.packed(properties)
                last = properties
            publish.exchange = short(exchange)
            publish.routing_key = short(routing_key)
            publish.mandatory = bool(mandatory)
            self.put_method(PUBLISH, 1, &publish)
            self.put_content(packed, body)
            count += 1
            if self.out_size >= CHUNK:
                pieces.append((self.written(), count))
        if self.out_size:
            pieces.append((self.written(), count))
        return pieces

    def feed(self, bytes data not None, list inbox not None):
        cdef list found = []
        cdef size_t size = PyBytes_GET_SIZE(data), payload
        cdef uint8_t *at
        cdef uint8_t *end
        self.unread = room(self.unread, &self.unread_room, self.unread_size + size)
        memcpy(self.unread + self.unread_size, PyBytes_AS_STRING(data), size)
        self.unread_size += size
        at, end = self.unread, self.unread + self.unread_size
        while end - at >= HEAD:
            payload = fq_get32(at + 3)
            if payload > self.frame_max - OVERHEAD:
                raise ValueError(f"a frame of {payload} bytes, where {self.frame_max} were agreed on")
            if <size_t>(end - at) < OVERHEAD + payload:
                break
            if at[HEAD + payload] != FRAME_END:
                raise ValueError(f"a frame that ends with {at[HEAD + payload]:#x}")
            self.take(at[0], at[1] << 8 | at[2], at + HEAD, payload, inbox, found)
            at += OVERHEAD + payload
        self.unread_size = end - at
        memmove(self.unread, at, self.unread_size)
        return found

    # -- writing ------------------------------------------------------------------------------------

    cdef bytes written(self):
        """Return what was put, and begin anew."""
        frames = PyBytes_FromStringAndSize(<char *>self.out, self.out_size)
        self.out_size = 0
        return frames

    cdef uint8_t *put_frame(self, uint8_t kind, uint16_t channel, size_t payload) except NULL:
        """Put the head and the end of a frame, and return where its payload is to be written."""
        cdef uint8_t *at
        if payload > self.frame_max - OVERHEAD:
            raise ValueError(f"{payload} bytes of arguments or headers are over the limit of {self.frame_max - 8}")
        self.out = room(self.out, &self.out_room, self.out_size + OVERHEAD + payload)
        at = self.out + self.out_size
        at[0] = kind
        fq_put16(at + 1, channel)
        fq_put32(at + 3, <uint32_t>payload)
        at[HEAD + payload] = FRAME_END
        self.out_size += OVERHEAD + payload
        return at + HEAD

    cdef int put_method(self, uint32_t method, uint16_t channel, void *given) except -1:
        cdef amqp_bytes_t space = self.space(HEAD + 4)
        cdef int size = amqp_encode_method(method, given, space)
        if size < 0:
            raise ValueError(words(size))
        fq_put32(self.put_frame(METHOD, channel, 4 + size), method)
        return 0

    cdef int put_content(self, bytes packed, bytes body) except -1:
        cdef size_t size = PyBytes_GET_SIZE(body), properties = PyBytes_GET_SIZE(packed), most, at = 0
        cdef uint8_t *to = self.put_frame(HEADER, 1, 12 + properties)
        fq_put32(to, BASIC << 16)
        fq_put64(to + 4, size)
        memcpy(to + 12, PyBytes_AS_STRING(packed), properties)
        while at < size:
            most = min(size - at, <size_t>self.frame_max - OVERHEAD)
            memcpy(self.put_frame(BODY, 1, most), PyBytes_AS_STRING(body) + at, most)
            at += most
        return 0

    cdef amqp_bytes_t space(self, size_t after) except *:
        """Return room for a frame's payload, so many bytes after what was put."""
        cdef amqp_bytes_t found
        self.out = room(self.out, &self.out_room, self.out_size + after + self.frame_max)
        found.bytes = self.out + self.out_size + after
        found.len = self.frame_max
        return found

    cdef bytes packed(self, properties):
        cdef amqp_basic_properties_t given
        cdef amqp_bytes_t space
        cdef int size
        memset(&given, 0, sizeof(given))
        try:
            fill_properties(&self.pool, properties, &given)
            space = self.space(0)
            size = amqp_encode_properties(BASIC, &given, space)
            if size < 0:
                raise ValueError(words(size))
            return PyBytes_FromStringAndSize(<char *>space.bytes, size)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{properties} can't be sent: {error}") from None
        finally:
            recycle_amqp_pool(&self.pool)

    cdef int fill(self, str form, list args, amqp_bytes_t space, size_t *size) except -1:
        """Write the arguments of a method by their form, see `amqp_methods`, and set how many bytes they have."""
        cdef uint8_t *at = <uint8_t *>space.bytes
        cdef uint8_t *end = at + space.len - 256 - 8  # so that all but a table and a long text has room
        cdef amqp_bytes_t given
        cdef amqp_table_t table
        cdef uint64_t value
        cdef unsigned bits = 0
        cdef int result
        for kind, arg in zip(form, args):
            if kind != "b":
                bits = 0
            if at >= end:
                raise ValueError("they are too long")
            if kind == "b":
                if bits % 8 == 0:
                    at[0] = 0
                    at += 1
                (at - 1)[0] |= bool(arg) << bits % 8
                bits += 1
            elif kind == "s":
                given = short(arg)
                at[0] = <uint8_t>given.len
                memcpy(at + 1, given.bytes, given.len)
                at += 1 + given.len
            elif kind == "S":
                given = utf8(arg)
                if given.len > <size_t>(end - at):
                    raise ValueError("they are too long")
                fq_put32(at, <uint32_t>given.len)
                memcpy(at + 4, given.bytes, given.len)
                at += 4 + given.len
            elif kind == "F":
                memset(&table, 0, sizeof(table))
                fill_arguments(&self.pool, arg, &table)
                size[0] = at - <uint8_t *>space.bytes
                result = amqp_encode_table(space, &table, size)
                if result < 0:
                    raise ValueError(words(result))
                at = <uint8_t *>space.bytes + size[0]
            elif kind == "B":
                fq_put16(at, <uint16_t>number(arg, <uint16_t>-1))
                at += 2
            elif kind == "l":
                fq_put32(at, <uint32_t>number(arg, <uint32_t>-1))
                at += 4
            else:
                value = number(arg, <uint64_t>-1)
                fq_put64(at, value)
                at += 8
        size[0] = at - <uint8_t *>space.bytes
        return 0

    # -- reading ------------------------------------------------------------------------------------

    cdef int take(
        self, uint8_t kind, unsigned channel, uint8_t *payload, size_t size, list inbox, list found
    ) except -1:
        if kind == HEARTBEAT:
            return 0
        if channel > 1:
            raise ValueError(f"a frame for channel {channel}, which was never opened")
        if kind == METHOD and (self.begun is None or not channel):
            self.take_method(channel, payload, size, found)
        elif kind == HEADER and self.begun is not None and self.properties is None and channel:
            self.take_header(payload, size)
        elif kind == BODY and self.properties is not None and channel and size <= self.missing:
            self.missing -= size
            self.body.append(PyBytes_FromStringAndSize(<char *>payload, size))
        else:
            raise ValueError(f"a frame of type {kind} out of turn")
        if self.properties is not None and not self.missing:
            self.complete(inbox, found)
        return 0

    cdef int take_method(self, unsigned channel, uint8_t *payload, size_t size, list found) except -1:
        cdef uint32_t number
        cdef amqp_bytes_t encoded
        cdef void *decoded
        cdef int result
        if size < 4:
            raise ValueError(f"a method of {size} bytes")
        number = fq_get32(payload)
        method = METHODS.get(number)
        if method is None:
            raise ValueError(f"method {number >> 16}.{number & 0xFFFF}, which is not known here")
        if channel != (0 if number >> 16 == 10 else 1):
            raise ValueError(f"{method.name} on channel {channel}")
        try:
            if number == DELIVER:
                args = self.read_delivery(payload + 4, size - 4)
            else:
                args = self.read(method, payload + 4, payload + size)
        finally:
            recycle_amqp_pool(&self.pool)
        if method in WITH_CONTENT:
            self.begun = method
            self.begun_args = args
        else:
            found.append((method, args))
        return 0

    cdef list read_delivery(self, uint8_t *payload, size_t size):
        cdef amqp_bytes_t encoded
        cdef void *decoded
        cdef amqp_basic_deliver_t *deliver
        encoded.bytes = payload
        encoded.len = size
        cdef int result = amqp_decode_method(DELIVER, &self.pool, encoded, &decoded)
        if result < 0:
            raise ValueError(f"a delivery that can't be read: {words(result)}")
        deliver = <amqp_basic_deliver_t *>decoded
        self.last_tag = same(self.last_tag, deliver.consumer_tag)
        self.last_exchange = same(self.last_exchange, deliver.exchange)
        self.last_key = same(self.last_key, deliver.routing_key)
        return [self.last_tag, deliver.delivery_tag, bool(deliver.redelivered), self.last_exchange, self.last_key]

    cdef list read(self, method, const uint8_t *at, const uint8_t *end):
        """Read the arguments of a method by their form, and return those that are of interest."""
        cdef list args = []
        cdef unsigned bits = 0
        cdef size_t size, least
        form, wanted = RECEIVED.get(method, (None, 0))
        if form is None:
            raise ValueError(f"{method.name}, which is for servers to hear")
        for kind in form:
            if kind == "b" and bits % 8:
                args.append(bool((at - 1)[0] >> bits % 8 & 1))
                bits += 1
                continue
            size = least = SIZES[kind]
            if <size_t>(end - at) < size:
                raise ValueError(f"{method.name} that ends too soon")
            if kind == "b":
                args.append(bool(at[0] & 1))
            elif kind == "o":
                args.append(at[0])
            elif kind == "B":
                args.append(at[0] << 8 | at[1])
            elif kind == "l":
                args.append(fq_get32(at))
            elif kind == "L":
                args.append(fq_get64(at))
            elif kind == "F":
                size = read_arguments(&self.pool, at, end, args)
            else:
                size += at[0] if kind == "s" else fq_get32(at)
                if <size_t>(end - at) < size:
                    raise ValueError(f"{method.name} with a text that ends too soon")
                args.append(text(at + least, size - least))
            at += size
            bits = 1 if kind == "b" else 0
        return args[:wanted]

    cdef int take_header(self, uint8_t *payload, size_t size) except -1:
        if size < 14:
            raise ValueError(f"a content header of {size} bytes")
        if payload[0] << 8 | payload[1] != BASIC:
            raise ValueError(f"content of class {payload[0] << 8 | payload[1]}")
        self.missing = fq_get64(payload + 4)
        if self.missing > LARGEST_BODY:
            raise ValueError(f"a body of {self.missing} bytes, which is over the limit of {MAX_BODY}")
        self.body = []
        self.flaw = ""
        payload += 12
        size -= 12
        if <size_t>PyBytes_GET_SIZE(self.last_packed) == size and not memcmp(
            payload, PyBytes_AS_STRING(self.last_packed), size
        ):
            self.properties = self.last_properties
            return 0
        try:
            self.properties = read_properties(&self.pool, payload, size)
        except (ValueError, OverflowError, OSError) as error:
            self.properties = NO_PROPERTIES
            self.flaw = f"the properties can't be read: {error}"
            return 0
        if self.properties.headers is None:
            self.last_packed = PyBytes_FromStringAndSize(<char *>payload, size)
            self.last_properties = self.properties
        return 0

    cdef int complete(self, list inbox, list found) except -1:
        body = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        method, args = self.begun, self.begun_args
        content = (self.properties, body, self.flaw)
        self.begun = self.begun_args = self.properties = self.body = None
        if method is METHODS[DELIVER]:
            inbox.append(make(Received, (*args, *content)))
        elif method is GET_OK:
            found.append((method, [make(Received, ("", *args[:4], *content))]))
        else:
            found.append((method, [*args, make(Received, ("", 0, False, args[2], args[3], *content))]))
        return 0


cdef str text(const uint8_t *at, size_t size):
    return PyUnicode_DecodeUTF8(<const char *>at, size, "backslashreplace")  # nobody checks what publishers write


cdef str same(str last, amqp_bytes_t found):
    """Return the text, and the object that was returned last if it is the same."""
    cdef Py_ssize_t size
    cdef const char *utf8 = PyUnicode_AsUTF8AndSize(last, &size)
    if <size_t>size == found.len and not memcmp(utf8, found.bytes, size):
        return last
    return text(<const uint8_t *>found.bytes, found.len)


cdef uint8_t *room(uint8_t *old, size_t *has, size_t wanted) except NULL:
    """Return a block of at least the size wanted with what was in the old one."""
    cdef uint8_t *found
    if wanted <= has[0]:
        return old
    wanted += wanted // 2
    found = <uint8_t *>PyMem_Realloc(old, wanted)
    if found == NULL:
        raise MemoryError
    has[0] = wanted
    return found


class AmqpLink(Link):
    """A link that speaks through rabbitmq-c."""

    codec = Codec
