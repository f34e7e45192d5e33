"""Signals become wishes, whichever thread the system delivers them to."""

import signal
import threading
import time

from fastq.worker.stopping import Wish, Wishes


def test_a_signal_that_another_thread_gets_wakes_the_main_thread() -> None:
    with Wishes() as wishes:

        def signal_here() -> None:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

        timer = threading.Timer(0.2, signal_here)  # by then the main thread waits
        timer.start()
        assert wishes.wait(Wish.NOTHING, time.monotonic() + 20) is Wish.FINISH
        timer.join()


def test_a_wish_is_heard_from_any_thread_and_the_stronger_counts() -> None:
    with Wishes() as wishes:
        threading.Thread(target=wishes.send, args=(Wish.NOW,)).start()
        assert wishes.wait(Wish.NOTHING, time.monotonic() + 20) is Wish.NOW
        wishes.send(Wish.FINISH)
        assert wishes.wait(Wish.NOTHING) is Wish.NOW


def test_what_was_set_up_for_signals_before_is_there_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Wishes():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert wakeup == -1


def test_stacks_are_asked_for_by_a_signal_and_the_waiting_goes_on() -> None:
    asked = []
    with Wishes(on_stacks=lambda: asked.append(1)) as wishes:
        for _ in range(100):
            signal.raise_signal(signal.SIGUSR1)
        assert wishes.wait(Wish.NOTHING, time.monotonic()) is Wish.NOTHING
        assert 1 <= len(asked) <= 100
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert wishes.wait(Wish.NOTHING, time.monotonic() + 20) is Wish.FINISH
