"""An app for tests of routing and of fair shares."""

import time

from fastq import FastQ, current_task

app = FastQ(
    "routed",
    broker="memory://routed",
    task_routes={"tests.apps.routed.send_*": "mail", "tests.apps.routed.send_video": "video", "shop.*": "shop"},
    fair_queues={"shared": 16},
)


@app.task
def send_letter() -> str:
    return current_task.queue


@app.task
def send_video() -> str:
    return current_task.queue


@app.task(queue="own")
def send_self() -> str:
    return current_task.queue


@app.task
def elsewhere() -> str:
    return current_task.queue


@app.task(name="shop.add")
def add() -> str:
    return current_task.queue


@app.task(queue="shared", fair_by="tenant", fair_weights={"big": 4})
def work(tenant: str) -> float:
    return time.time()


@app.task(queue="shared")
def of_nobody() -> float:
    return time.time()


@app.task(queue="shared", fair_by="tenant", max_retries=1)
def again(tenant: str) -> str:
    if current_task.attempt == 1:
        again.retry(countdown=0)
    return current_task.queue
