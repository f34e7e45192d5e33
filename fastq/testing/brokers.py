"""The conformance suite of a broker: subclass it in a test module, and give it your broker.

class TestMyBroker(BrokerConformance):
    @pytest.fixture
    def broker(self):
        broker = MyBroker("mine://localhost")  # with no messages in it
        yield broker
        broker.close()
"""

from __future__ import annotations

from fastq.testing.broker_delivery import Delivering
from fastq.testing.broker_inspection import Inspecting
from fastq.testing.broker_leases import Leasing
from fastq.testing.broker_serving import Serving


class BrokerConformance(Delivering, Serving, Leasing, Inspecting):
    """One test a sentence of the contract in `fastq.broker`."""
