from fastq import task


@task
def add(x: int, y: int) -> int:
    return x + y


if __name__ == "__main__":
    print(add.delay(4, 4).wait(timeout=10))
