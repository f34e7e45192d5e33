"""What people ask of RabbitMQ, by the suite of it: with the management plugin, on a node of these tests alone."""

from __future__ import annotations

import pytest

from fastq.testing.broker_inspection import Inspecting
from fastq.testing.clocks import RealClock
from tests import rabbit_server
from tests.conformance.test_amqp import OnRabbitMq, Watched
from tests.conftest import require_service
from tests.rabbit_server import RabbitServer, can_start

pytestmark = pytest.mark.soak  # a node takes seconds to start, and its statistics seconds to come

_STATISTICS_S = 7.0  # the plugin asks the server every 5


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    require_service("RabbitMQ", can_start)
    node = RabbitServer(tmp_path_factory.mktemp("rabbit"), management=True).start()
    node.control("eval", "application:set_env(rabbit, quorum_tick_interval, 200).")
    yield node
    node.kill()


class Patient(Watched):
    """Gives the plugin time to hear of what was done."""

    def queues(self):
        for _, subscription in self.subscriptions:
            subscription._pause()  # what was pushed ahead of its fetch is leased, too
        RealClock().advance(_STATISTICS_S)
        return super().queues()

    def workers(self):
        RealClock().advance(_STATISTICS_S)
        return super().workers()


class TestClassicQueues(OnRabbitMq, Inspecting):
    @pytest.fixture
    def broker(self, request, node):
        options = f"management=http://127.0.0.1:{node.management_port}&{self.options}"
        broker = Patient(f"{node.url}?prefix={rabbit_server.prefix_of(request.node.name)}&{options}")
        yield broker
        broker.close()


class TestQuorumQueues(TestClassicQueues):
    options = "queue_type=quorum"


class TestPrioritiesOfQuorumQueues(TestClassicQueues):
    options = "queue_type=quorum&priorities=3"
