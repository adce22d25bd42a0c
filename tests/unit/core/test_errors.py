"""What all errors share."""

from vdsm.core.errors import LONGEST_TEXT, InvalidArgument, shorten


def test_a_text_repeats_only_so_much_of_what_was_sent() -> None:
    error = InvalidArgument("name", "x" * 1_000_000)
    assert str(error).startswith("name: xxx") and str(error).endswith("… (998006 characters more)")
    assert len(str(error)) < LONGEST_TEXT + 50
    assert str(InvalidArgument("name", "{0.__class__} %s")) == "name: {0.__class__} %s"


def test_what_is_short_stays_as_it_is() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "abc… (1 characters more)"
