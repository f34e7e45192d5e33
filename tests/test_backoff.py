from fastq.backoff import Backoff, longest_pause, pause


def test_pauses_double_up_to_the_longest() -> None:
    assert [longest_pause(failures, 0.5, 3.0) for failures in (1, 2, 3, 4, 10_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_those_who_fail_together_come_back_spread_over_the_whole_pause() -> None:
    """Row 37."""
    pauses = [pause(4, 1.0, 60.0) for _ in range(4000)]
    eighths = [sum(n <= each < n + 1 for each in pauses) for n in range(8)]
    assert min(eighths) > 350  # of 500; a thundering herd would be in one of them


def test_what_works_again_begins_with_short_pauses() -> None:
    backoff = Backoff(1.0, 100.0)
    assert not backoff.worked()
    assert [backoff.failed() <= longest for longest in (1.0, 2.0, 4.0)] == [True] * 3
    assert backoff.failures == 3
    assert backoff.worked()
    assert backoff.failed() <= 1.0
    assert backoff.failures == 1
