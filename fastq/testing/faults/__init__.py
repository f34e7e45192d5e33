"""Faults on purpose, and the accounts of what they cost: for fastq's own tests, and for those of a deployment.

A test has tasks and producers write into a `Ledger`, does harm while they work (by a `Proxy`, by `Failures`, or
by signals), waits until all is quiet, and has `judge` say what was lost or done twice. An `Audit` finds what was left
behind.
"""

from fastq.testing.faults.audit import Audit, alive, children_of, family
from fastq.testing.faults.checker import Verdict, judge, table
from fastq.testing.faults.failures import Failures, Firing
from fastq.testing.faults.ledger import Ledger, Line
from fastq.testing.faults.proxy import Proxy

__all__ = [
    "Audit", "Failures", "Firing", "Ledger", "Line", "Proxy", "Verdict", "alive", "children_of", "family", "judge",
    "table",
]  # fmt: skip
