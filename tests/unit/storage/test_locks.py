"""Locks inside the process: order, sharing, and giving up instead of waiting for ever."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.storage import locks
from vdsm.storage.errors import ResourceTimeout
from vdsm.storage.locks import WAITS, Locks, Waits


@contextmanager
def waiting(timeout_s: float, hear: Callable[[int], object] = id) -> Iterator[None]:
    token = WAITS.set(Waits(timeout_s, hear))  # type: ignore[arg-type]
    try:
        yield
    finally:
        WAITS.reset(token)


def test_readers_share_and_a_writer_waits() -> None:
    held = Locks(timeout_s=0.01)
    with held.hold(locks.domain("d", shared=True)), held.hold(locks.domain("d", shared=True)):
        with pytest.raises(ResourceTimeout), held.hold(locks.domain("d")):
            pass
    with held.hold(locks.domain("d")), pytest.raises(ResourceTimeout), held.hold(locks.domain("d", shared=True)):
        pass
    with held.hold(locks.domain("d")):
        pass


def test_what_was_taken_is_released_when_another_cannot_be_had() -> None:
    held = Locks(timeout_s=0.01)
    with held.hold(locks.image("d", "i")):
        with pytest.raises(ResourceTimeout), held.hold(locks.image("d", "i"), locks.domain("d")):
            pass
        with held.hold(locks.domain("d")):
            pass


def test_a_resource_named_twice_is_held_exclusively() -> None:
    held = Locks(timeout_s=0.01)
    shared = locks.image("d", "i", shared=True)
    with held.hold(shared, locks.image("d", "i")), pytest.raises(ResourceTimeout), held.hold(shared):
        pass


def test_a_waiting_writer_gets_its_turn() -> None:
    held = Locks(timeout_s=20)
    entered = threading.Event()

    def write() -> None:
        with held.hold(locks.pool("p")):
            entered.set()

    writer = threading.Thread(target=write)
    with held.hold(locks.pool("p", shared=True)):
        writer.start()
        assert not entered.is_set()
    writer.join(20)
    assert entered.is_set()


def test_readers_that_come_later_do_not_keep_a_writer_waiting_for_ever() -> None:
    held = Locks(timeout_s=20)
    wrote = threading.Event()

    def write() -> None:
        with held.hold(locks.domain("d")):
            wrote.set()

    writer = threading.Thread(target=write)
    reader = locks.domain("d", shared=True)
    with held.hold(reader):
        writer.start()
        with pytest.raises(ResourceTimeout), waiting(0.001):
            while True:  # until the writer waits
                with held.hold(reader):
                    assert not wrote.is_set()
    writer.join(20)
    assert wrote.is_set()
    with held.hold(reader), held.hold(reader):
        pass


def test_a_writer_that_waits_for_a_long_reader_holds_up_no_other_for_long() -> None:
    """While a copy of hours reads, others may: the writer has its turn between two, or gives up."""
    held, waits = Locks(timeout_s=60), threading.Event()
    reader = locks.domain("d", shared=True)

    def write() -> None:
        with waiting(60, lambda _: waits.set()), held.hold(locks.domain("d")):
            pass

    writer = threading.Thread(target=write)
    with held.hold(reader):
        writer.start()
        assert waits.wait(20)
        began_s = time.monotonic()
        with held.hold(reader):
            assert time.monotonic() - began_s < 20
        assert writer.is_alive()
    writer.join(20)
    assert not writer.is_alive()


def test_waits_are_told_and_may_be_refused() -> None:
    held, told = Locks(timeout_s=0.01), []
    with held.hold(locks.pool("p")):
        with waiting(10, told.append), pytest.raises(ResourceTimeout), held.hold(locks.pool("p")):
            pass
        assert told == [1, -1]

        def refuse(change: int) -> None:
            told.append(change)
            raise ResourceTimeout("too many")

        with waiting(10, refuse), pytest.raises(ResourceTimeout, match="too many"), held.hold(locks.pool("p")):
            pass
    assert told == [1, -1, 1]
    with waiting(10, told.append), held.hold(locks.pool("p")):
        assert told == [1, -1, 1]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=4), st.data())
def test_threads_that_take_the_same_locks_in_any_order_end(wanted: list[tuple[str, bool]], data: st.DataObject) -> None:
    held = Locks(timeout_s=20)
    orders = [data.draw(st.permutations(wanted)) for _ in range(3)]
    done = []

    def work(order: list[tuple[str, bool]]) -> None:
        for _ in range(5):
            with held.hold(*(locks.domain(name, shared=shared) for name, shared in order)):
                done.append(1)

    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 15
