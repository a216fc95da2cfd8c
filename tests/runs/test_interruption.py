import signal
import threading

import pytest

from fedrl.runs.interruption import interruptible


def test_the_first_signal_is_a_request_and_the_second_an_interruption() -> None:
    stop = threading.Event()
    with interruptible(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_afterwards_a_signal_does_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible(threading.Event()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_one_inside_another_hands_the_second_signal_on() -> None:
    outer, inner = threading.Event(), threading.Event()
    with interruptible(outer), interruptible(inner):
        signal.raise_signal(signal.SIGINT)
        assert (inner.is_set(), outer.is_set()) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert outer.is_set()


def test_other_threads_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruptible(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
