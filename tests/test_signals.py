import os
import signal

import pytest

from eanet import signals


@pytest.mark.parametrize("number", signals.STOP)
def test_the_first_is_noted_and_the_second_acts_as_usual(number):
    before = [signal.getsignal(each) for each in signals.STOP]
    with signals.stop_request() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.signal == number
        assert all(signal.getsignal(each) == signal.SIG_DFL for each in signals.STOP)
    assert [signal.getsignal(each) for each in signals.STOP] == before


@pytest.mark.parametrize("number", signals.SAVE)
def test_a_request_to_save_ends_nothing_and_may_come_again(number):
    before = signal.getsignal(number)
    with signals.save_request() as save:
        for _ in range(3):
            assert not save
            os.kill(os.getpid(), number)
            assert save.signal == number
            save.clear()
    assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.save_request() as save:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not save
            os.kill(os.getpid(), signal.SIGUSR1)
            assert save
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
