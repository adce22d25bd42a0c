"""Locks inside the process: order, sharing, and giving up instead of waiting for ever."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.storage import locks
from vdsm.storage.errors import ResourceTimeout
from vdsm.storage.locks import Locks


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
    patient = Locks(timeout_s=20)
    hurried = Locks(timeout_s=0.001, share=patient)
    wrote = threading.Event()

    def write() -> None:
        with patient.hold(locks.domain("d")):
            wrote.set()

    writer = threading.Thread(target=write)
    reader = locks.domain("d", shared=True)
    with patient.hold(reader):
        writer.start()
        with pytest.raises(ResourceTimeout):
            while True:  # until the writer waits
                with hurried.hold(reader):
                    assert not wrote.is_set()
    writer.join(20)
    assert wrote.is_set()
    with hurried.hold(reader), hurried.hold(reader):
        pass


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
