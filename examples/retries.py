"""A task that fails twice and is tried again: run ``fastq worker -A retries`` in this folder, and then this file."""

from fastq import FastQ, current_task

app = FastQ("retries")


@app.task(autoretry_for=(ConnectionError,), retry_backoff=0.2, max_retries=5)
def fetch(url: str) -> str:
    if current_task.attempt < 3:
        raise ConnectionError(f"{url} does not answer")
    return f"{url}: fetched by attempt {current_task.attempt}"


if __name__ == "__main__":
    result = fetch.delay("https://example.org")
    print(result.get(timeout=30))
