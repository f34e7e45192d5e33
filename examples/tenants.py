"""Limits for each tenant: run ``fastq worker -A tenants`` in this folder, and then this file.

In the whole cluster, each tenant has at most two tasks running, and five started in a second. Whoever sends much waits,
and keeps nobody else waiting.
"""

import time

from fastq import FastQ

app = FastQ("tenants")


@app.task(rate_limit="5/s", max_concurrency=2, limit_by="tenant")
def convert(tenant: str, number: int) -> str:
    time.sleep(0.05)
    return f"{tenant}'s picture {number} is converted"


if __name__ == "__main__":
    began = time.monotonic()
    results = [convert.delay("busy", number) for number in range(8)]
    results.insert(0, convert.delay("modest", 1))
    for result in results:
        print(f"{result.get(timeout=60)}, {time.monotonic() - began:.1f} s after the first call")
