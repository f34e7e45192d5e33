"""Count the words of many texts, and put them together: run ``fastq worker -A chord`` in this folder, and then this."""

from collections import Counter

from fastq import FastQ, chord

app = FastQ("chord")


@app.task
def count(text: str) -> dict[str, int]:
    return Counter(text.lower().split())


@app.task
def merge(counts: list[dict[str, int]]) -> dict[str, int]:
    return sum(map(Counter, counts), Counter())


@app.task
def most_common(counts: dict[str, int], number: int) -> list[str]:
    return [word for word, _ in Counter(counts).most_common(number)]


if __name__ == "__main__":
    texts = ["the quick brown fox", "the lazy dog", "the fox and the dog"] * 100
    result = (chord((count.s(text) for text in texts), merge.s()) | most_common.s(3)).delay()
    print(*result.get(timeout=30))
