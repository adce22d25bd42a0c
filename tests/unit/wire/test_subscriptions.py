"""Addressing on the message bus (facts: rpc §1.4)."""

from vdsm.wire.subscriptions import Subscriptions


def test_messages_reach_parents_answers_do_not():
    table: Subscriptions[str] = Subscriptions()
    table.add("a.b.c", "c")
    table.add("a.b", "b")
    table.add("a", "a")
    table.add("a.bc", "other")
    assert table.list_reached("a.b.c") == ["c", "b", "a"]
    assert table.list_exact("a.b.c") == ("c",)
    assert table.list_reached("b.c") == []


def test_removed_listeners_leave_nothing_behind():
    table: Subscriptions[str] = Subscriptions()
    table.add("a", "x")
    table.add("a", "y")
    table.remove("a", "x")
    table.remove("a", "unknown")
    assert table.list_exact("a") == ("y",)
    table.remove("a", "y")
    assert not table._by_destination
