"""The methods of AMQP 0-9-1 that the link calls and hears: class and method number in one, as in a method frame."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Method(IntEnum):
    """A method; the comment says with which arguments the codecs pack and read it, if with any."""

    CONNECTION_START = 10 << 16 | 10  # major, minor, properties: table, mechanisms, locales
    CONNECTION_START_OK = 10 << 16 | 11  # properties: table, mechanism, response, locale
    CONNECTION_TUNE = 10 << 16 | 30  # channel_max, frame_max, heartbeat_s
    CONNECTION_TUNE_OK = 10 << 16 | 31  # the same
    CONNECTION_OPEN = 10 << 16 | 40  # vhost
    CONNECTION_OPEN_OK = 10 << 16 | 41
    CONNECTION_CLOSE = 10 << 16 | 50  # code, text
    CONNECTION_CLOSE_OK = 10 << 16 | 51
    CONNECTION_BLOCKED = 10 << 16 | 60  # reason
    CONNECTION_UNBLOCKED = 10 << 16 | 61
    CHANNEL_OPEN = 20 << 16 | 10
    CHANNEL_OPEN_OK = 20 << 16 | 11
    CHANNEL_FLOW = 20 << 16 | 20  # active
    CHANNEL_FLOW_OK = 20 << 16 | 21  # active
    CHANNEL_CLOSE = 20 << 16 | 40  # code, text
    CHANNEL_CLOSE_OK = 20 << 16 | 41
    EXCHANGE_DECLARE = 40 << 16 | 10  # name, type, passive, durable, auto_delete, arguments: table
    EXCHANGE_DECLARE_OK = 40 << 16 | 11
    QUEUE_DECLARE = 50 << 16 | 10  # name, passive, durable, exclusive, auto_delete, arguments: table
    QUEUE_DECLARE_OK = 50 << 16 | 11  # name, messages, consumers
    QUEUE_BIND = 50 << 16 | 20  # queue, exchange, routing_key, arguments: table
    QUEUE_BIND_OK = 50 << 16 | 21
    QUEUE_PURGE = 50 << 16 | 30  # queue
    QUEUE_PURGE_OK = 50 << 16 | 31  # messages
    QUEUE_DELETE = 50 << 16 | 40  # queue, if_unused, if_empty
    QUEUE_DELETE_OK = 50 << 16 | 41  # messages
    QUEUE_UNBIND = 50 << 16 | 50  # queue, exchange, routing_key, arguments: table
    QUEUE_UNBIND_OK = 50 << 16 | 51
    BASIC_QOS = 60 << 16 | 10  # prefetch
    BASIC_QOS_OK = 60 << 16 | 11
    BASIC_CONSUME = 60 << 16 | 20  # queue, tag, no_ack, exclusive, arguments: table
    BASIC_CONSUME_OK = 60 << 16 | 21  # tag
    BASIC_CANCEL = 60 << 16 | 30  # tag, from either side
    BASIC_CANCEL_OK = 60 << 16 | 31  # tag
    BASIC_PUBLISH = 60 << 16 | 40  # in `publications` alone
    BASIC_RETURN = 60 << 16 | 50  # code, text, exchange, routing_key, and content
    BASIC_DELIVER = 60 << 16 | 60  # tag, delivery_tag, redelivered, exchange, routing_key, and content
    BASIC_GET = 60 << 16 | 70  # queue, no_ack
    BASIC_GET_OK = 60 << 16 | 71  # delivery_tag, redelivered, exchange, routing_key, messages, and content
    BASIC_GET_EMPTY = 60 << 16 | 72
    BASIC_ACK = 60 << 16 | 80  # delivery_tag, multiple; from either side
    BASIC_REJECT = 60 << 16 | 90  # delivery_tag, requeue
    BASIC_NACK = 60 << 16 | 120  # delivery_tag, multiple, requeue; from either side
    CONFIRM_SELECT = 85 << 16 | 10
    CONFIRM_SELECT_OK = 85 << 16 | 11


#: How the arguments of a method are packed, and those that are the same for all who call it, by their positions.
#: A letter each: o, B, l, L numbers of 1, 2, 4 and 8 bytes; b a bit, which shares its byte with those beside it;
#: s text of up to 255 bytes, S of any size; F a table, which comes last. They are py-amqp's.
SENT: dict[Method, tuple[str, dict[int, Any]]] = {
    Method.CONNECTION_START_OK: ("FsSs", {}),
    Method.CONNECTION_TUNE_OK: ("BlB", {}),
    Method.CONNECTION_OPEN: ("ssb", {1: "", 2: False}),
    Method.CONNECTION_CLOSE: ("BsBB", {2: 0, 3: 0}),
    Method.CONNECTION_CLOSE_OK: ("", {}),
    Method.CHANNEL_OPEN: ("s", {0: ""}),
    Method.CHANNEL_FLOW: ("b", {}),
    Method.CHANNEL_FLOW_OK: ("b", {}),
    Method.CHANNEL_CLOSE_OK: ("", {}),
    Method.EXCHANGE_DECLARE: ("BssbbbbbF", {0: 0, 6: False, 7: False}),
    Method.QUEUE_DECLARE: ("BsbbbbbF", {0: 0, 6: False}),
    Method.QUEUE_BIND: ("BsssbF", {0: 0, 4: False}),
    Method.QUEUE_PURGE: ("Bsb", {0: 0, 2: False}),
    Method.QUEUE_DELETE: ("Bsbbb", {0: 0, 4: False}),
    Method.QUEUE_UNBIND: ("BsssF", {0: 0}),
    Method.BASIC_QOS: ("lBb", {0: 0, 2: False}),
    Method.BASIC_CONSUME: ("BssbbbbF", {0: 0, 3: False, 6: False}),
    Method.BASIC_CANCEL: ("sb", {1: False}),
    Method.BASIC_CANCEL_OK: ("s", {}),
    Method.BASIC_PUBLISH: ("Bssbb", {0: 0, 4: False}),
    Method.BASIC_GET: ("Bsb", {0: 0}),
    Method.BASIC_ACK: ("Lb", {}),
    Method.BASIC_REJECT: ("Lb", {}),
    Method.BASIC_NACK: ("Lbb", {}),
    Method.CONFIRM_SELECT: ("b", {0: False}),
}

#: How the arguments of a method are read, and how many of them are of interest.
RECEIVED: dict[Method, tuple[str, int]] = {
    Method.CONNECTION_START: ("ooFSS", 5),
    Method.CONNECTION_TUNE: ("BlB", 3),
    Method.CONNECTION_OPEN_OK: ("s", 0),
    Method.CONNECTION_CLOSE: ("BsBB", 2),
    Method.CONNECTION_CLOSE_OK: ("", 0),
    Method.CONNECTION_BLOCKED: ("s", 1),
    Method.CONNECTION_UNBLOCKED: ("", 0),
    Method.CHANNEL_OPEN_OK: ("S", 0),
    Method.CHANNEL_FLOW: ("b", 1),
    Method.CHANNEL_FLOW_OK: ("b", 1),
    Method.CHANNEL_CLOSE: ("BsBB", 2),
    Method.CHANNEL_CLOSE_OK: ("", 0),
    Method.EXCHANGE_DECLARE_OK: ("", 0),
    Method.QUEUE_DECLARE_OK: ("sll", 3),
    Method.QUEUE_BIND_OK: ("", 0),
    Method.QUEUE_PURGE_OK: ("l", 1),
    Method.QUEUE_DELETE_OK: ("l", 1),
    Method.QUEUE_UNBIND_OK: ("", 0),
    Method.BASIC_QOS_OK: ("", 0),
    Method.BASIC_CONSUME_OK: ("s", 1),
    Method.BASIC_CANCEL: ("sb", 1),
    Method.BASIC_CANCEL_OK: ("s", 1),
    Method.BASIC_RETURN: ("Bsss", 4),
    Method.BASIC_DELIVER: ("sLbss", 5),
    Method.BASIC_GET_OK: ("Lbssl", 5),
    Method.BASIC_GET_EMPTY: ("s", 0),
    Method.BASIC_ACK: ("Lb", 2),
    Method.BASIC_NACK: ("Lbb", 2),
    Method.CONFIRM_SELECT_OK: ("", 0),
}

#: Those that a message follows.
WITH_CONTENT = {Method.BASIC_RETURN, Method.BASIC_DELIVER, Method.BASIC_GET_OK}
