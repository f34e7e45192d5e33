"""A cluster of RabbitMQ that loses one of its three nodes: quorum queues lose nothing, and their clients go on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastq.broker import Decision
from fastq.brokers import open_broker
from fastq.errors import BrokerError
from fastq.testing.broker_case import bodies, numbered, together
from tests.conftest import require_service
from tests.faults.test_amqp_faults import told_that_it_ended
from tests.ledger import eventually
from tests.rabbit_server import RabbitServer, can_start

pytestmark = pytest.mark.soak  # three nodes have to start


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A node is another process after its end; all are ended after the test."""


@pytest.fixture
def nodes(tmp_path):
    require_service("RabbitMQ", can_start)
    nodes = [RabbitServer(tmp_path / f"node{number}") for number in range(3)]
    nodes[0].join(*nodes[1:])
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(RabbitServer.start, nodes))
        eventually(lambda: all(node.name in nodes[0].control("cluster_status") for node in nodes), 60)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.timeout(300)
def test_a_cluster_that_loses_a_node_loses_no_message_and_its_clients_go_on(nodes):
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    broker = open_broker(f"amqp://guest:guest@{places}/?queue_type=quorum&timeout=20")
    broker.publish(numbered(100))
    members = nodes[0].control("list_queues", "members")
    assert all(node.name in members for node in nodes)
    time.sleep(5)  # of no promise: a node of 3.10 may forget a queue that it has just made, if it is killed at once
    subscription = broker.subscribe(["q"], 60.0, {})
    held = together(subscription, 10)
    assert subscription.settle([Decision(it) for it in held[:5]]) == []
    subscription._intake.link.sync()
    port = subscription._intake.link._wire._socket.getpeername()[1]
    next(node for node in nodes if node.port == port).kill()
    told_that_it_ended(subscription)
    assert subscription.settle([Decision(it) for it in held[5:]]) == held[5:]
    subscription.close()
    eventually(lambda: takes(broker, b"after"), 60)
    again = broker.subscribe(["q"], 60.0, {})
    found: set[bytes] = set()
    give_up = time.monotonic() + 60
    while not found >= {b"after", *(b"%d" % number for number in range(10, 100))} and time.monotonic() < give_up:
        deliveries = again.fetch(50, give_up)
        found.update(bodies(deliveries))
        assert again.settle([Decision(it) for it in deliveries]) == []
    # Acknowledgements have no answer: what was settled last may be there again.
    assert found - set(bodies(held[:5])) == {b"after", *(set(map(b"%d".__mod__, range(100))) - set(bodies(held[:5])))}
    again.close()
    broker.close()


def takes(broker, body: bytes) -> bool:
    """Return whether a message is accepted."""
    (message,) = numbered(1)
    try:
        broker.publish([message._replace(body=body)])
    except BrokerError:
        return False
    return True
