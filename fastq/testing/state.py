"""The conformance suite of shared state: subclass it in a test module, and give it two clients of your system.

class TestMyState(StateConformance):
    @pytest.fixture
    def state(self):
        state = MyState("mine://localhost")  # with nothing in it
        yield state
        state.close()

    @pytest.fixture
    def other(self, state):
        other = MyState("mine://localhost")
        yield other
        other.close()
"""

from __future__ import annotations

from fastq.testing.state_facts import Remembering
from fastq.testing.state_flows import Joining
from fastq.testing.state_limits import Limiting
from fastq.testing.state_logs import Following


class StateConformance(Remembering, Limiting, Joining, Following):
    """One test a sentence of the contract in `fastq.state`."""
