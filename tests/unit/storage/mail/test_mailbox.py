"""The mailbox: its bytes as the facts give them, and the exchange between hosts and SPM in any order of events."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.core.errors import ResourceExhausted
from vdsm.storage.mail.exchange import HostEnd, SpmEnd
from vdsm.storage.mail.mailbox import (
    CLEAN,
    EMPTY,
    EXTEND,
    MAILBOX_BYTES,
    MESSAGE_BYTES,
    SLOTS,
    Extension,
    compute_checksum,
    format_event,
    format_extension,
    format_mailbox,
    get_code,
    has_checksum,
    is_empty,
    parse_event,
    parse_extension,
    split_mailbox,
)

EXAMPLE = Extension("11223344-5566-4788-99aa-bbccddeeff00", "0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0", 5120)
EXAMPLE_BYTES = bytes.fromhex(
    """
    31 78 74 6e 64 00 ff ee dd cc bb aa 99 88 47 66
    55 44 33 22 11 f0 e1 d2 c3 b4 a5 96 87 78 46 5a
    4b 3c 2d 1e 0f 30 30 30 30 30 30 30 30 30 30 30
    30 31 34 30 30 30 30 30 30 30 30 30 30 30 30 30
    """
)
"""Facts: storage §7.4."""

ids = st.uuids().map(str)
extensions = st.builds(Extension, ids, ids, st.integers(0, 0xFFFFFFFF))
anything = st.binary(max_size=200) | st.binary(min_size=MESSAGE_BYTES, max_size=MESSAGE_BYTES)


def test_the_example_of_the_facts():
    assert format_extension(EXAMPLE) == EXAMPLE_BYTES
    assert parse_extension(EXAMPLE_BYTES) == EXAMPLE
    mailbox = format_mailbox([EXAMPLE_BYTES, *[EMPTY] * (SLOTS - 1)])
    assert compute_checksum(mailbox) == 5793
    assert mailbox[-4:] == bytes.fromhex("a1 16 00 00")
    assert len(mailbox) == MAILBOX_BYTES and mailbox[4032:4092] == bytes(60)


@given(extensions)
def test_what_is_written_is_read(extension):
    message = format_extension(extension)
    assert len(message) == MESSAGE_BYTES and get_code(message) == EXTEND and not is_empty(message)
    assert parse_extension(message) == extension
    assert format_extension(parse_extension(message[:53] + b"\xff" * 11)) == message  # padding means nothing


@given(anything)
def test_any_bytes_are_a_message_or_are_refused(data):
    try:
        extension = parse_extension(data)
    except ValueError:
        return
    assert format_extension(extension)[:53] == data[:53]


@given(st.binary(max_size=53 - 37), st.integers(0, 16))
def test_any_bytes_are_a_size_or_are_refused(data, place):
    size = (EXAMPLE_BYTES[37 : 37 + place] + data)[:16].ljust(16, b"0")
    try:
        extension = parse_extension(EXAMPLE_BYTES[:37] + size + b"0" * 11)
    except ValueError:
        return
    assert b"%016x" % extension.size_mib == size


@pytest.mark.parametrize("size", [-1, 1 << 32, 1 << 70])
def test_sizes_that_no_message_carries(size):
    with pytest.raises(ValueError, match="no size"):
        format_extension(Extension(EXAMPLE.domain_id, EXAMPLE.volume_id, size))


@pytest.mark.parametrize("size", [b"0000000100000000", b"ffffffffffffffff", b"000000000000 140", b"0x00000000001400"])
def test_sizes_beyond_what_a_message_carries(size):
    with pytest.raises(ValueError, match="no size"):
        parse_extension(EXAMPLE_BYTES[:37] + size + b"0" * 11)


@given(st.binary(max_size=2 * MAILBOX_BYTES))
def test_any_bytes_are_a_mailbox_or_none(data):
    if has_checksum(data):
        assert len(data) == MAILBOX_BYTES
    assert len(split_mailbox(data)) == SLOTS


@given(st.lists(anything.map(lambda data: data.ljust(64, b"\0")[:64]), min_size=SLOTS, max_size=SLOTS), st.data())
def test_a_mailbox_has_its_checksum_and_no_other(slots, data):
    mailbox = format_mailbox(slots)
    assert has_checksum(mailbox) and split_mailbox(mailbox) == slots
    place = data.draw(st.integers(0, MAILBOX_BYTES - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != mailbox[place]))
    assert not has_checksum(mailbox[:place] + bytes([value]) + mailbox[place + 1 :])


def test_the_event_block():
    event = uuid.UUID("11223344-5566-4788-99aa-bbccddeeff00")
    block = format_event(event)
    assert block[:20] == bytes.fromhex("00 65 76 74 11 22 33 44 55 66 47 88 99 aa bb cc dd ee ff 00")
    assert block[20:] == bytes(4076)
    assert parse_event(block) == event
    assert is_empty(split_mailbox(block)[0])


@given(st.binary(max_size=MAILBOX_BYTES) | st.binary(max_size=40).map(lambda data: b"\0evt" + data))
def test_any_bytes_are_an_event_or_none(data):
    event = parse_event(data)
    assert event is None or data[:20] == format_event(event)[:20]


# --- the exchange ----------------------------------------------------------------------------------------------------


def make_request(number: int, size_mib: int = 5120) -> bytes:
    return format_extension(Extension(EXAMPLE.domain_id, str(uuid.UUID(int=number)), size_mib))


def make_reply(request: bytes, size_mib: int) -> bytes:
    asked = parse_extension(request)
    return format_extension(Extension(asked.domain_id, asked.volume_id, size_mib))


class Post:
    """One host with the id 2, an SPM, and the two files between them."""

    COUNT = 4

    def __init__(self) -> None:
        self.inbox, self.outbox = bytearray(self.COUNT * MAILBOX_BYTES), bytearray(self.COUNT * MAILBOX_BYTES)
        self.spm = SpmEnd(self.COUNT)
        self.host = HostEnd(bytes(MAILBOX_BYTES))
        self.letters = []
        self.answered = []
        self.lost = []

    @staticmethod
    def place(host_id: int = 2) -> slice:
        return slice(host_id * MAILBOX_BYTES, (host_id + 1) * MAILBOX_BYTES)

    def send(self) -> None:
        self.inbox[self.place()] = self.host.mailbox

    def scan(self) -> None:
        self.letters += self.spm.scan(bytes(self.inbox))
        self.write()

    def write(self) -> None:
        while (unsent := self.spm.get_unsent()) is not None:
            self.outbox[self.place(unsent[0])] = unsent[1]
            self.spm.mark_sent(*unsent)

    def serve(self, size_mib: int | None = None) -> None:
        for letter in self.letters:
            wanted = parse_extension(letter.message).size_mib if size_mib is None else size_mib
            self.spm.answer(letter, make_reply(letter.message, wanted))
        self.letters.clear()
        self.write()

    def hear(self) -> None:
        done = self.host.hear(bytes(self.outbox[self.place()]))
        self.answered += [request for request, is_answer in done.items() if is_answer]
        self.lost += [request for request, is_answer in done.items() if not is_answer]

    def restart_spm(self) -> None:
        self.spm = SpmEnd(self.COUNT)
        self.letters.clear()
        self.outbox[:] = bytes(len(self.outbox))

    def restart_host(self) -> None:
        self.inbox[self.place()] = bytes(MAILBOX_BYTES)
        self.host = HostEnd(bytes(self.outbox[self.place()]))

    def get_slots(self, file: bytearray) -> list[bytes]:
        return split_mailbox(bytes(file[self.place()]))


@pytest.mark.parametrize("size_mib", [5120, 0])
def test_a_whole_exchange(size_mib):
    post, request = Post(), make_request(1)
    assert post.host.put(request)
    post.send()
    assert post.get_slots(post.inbox)[0] == request and has_checksum(bytes(post.inbox[post.place()]))
    post.scan()
    assert [(letter.host_id, letter.slot, letter.message) for letter in post.letters] == [(2, 0, request)]
    post.serve(size_mib)
    assert post.get_slots(post.outbox)[0] == make_reply(request, size_mib)
    assert bytes(post.outbox[post.place()])[4032:] == bytes(64)  # no checksum
    post.hear()
    assert post.answered == [request]
    post.send()
    assert post.get_slots(post.inbox)[0] == CLEAN and post.host.is_waiting
    post.scan()
    assert post.get_slots(post.outbox)[0] == CLEAN
    post.hear()
    post.send()
    assert bytes(post.inbox) == bytes(len(post.inbox)) and not post.host.is_waiting
    post.scan()
    assert post.letters == [] and post.answered == [request]


def test_the_same_request_again_later():
    post, request = Post(), make_request(1)
    for _ in range(3):
        assert post.host.put(request)
        for _ in range(3):
            post.send(), post.scan(), post.serve(), post.hear()
    assert post.answered == [request] * 3


def test_a_request_that_waits_is_not_put_twice_and_the_mailbox_has_an_end():
    host = HostEnd(bytes(MAILBOX_BYTES))
    assert [host.put(make_request(1)), host.put(make_request(1))] == [True, False]
    for number in range(2, SLOTS + 1):
        host.put(make_request(number))
    with pytest.raises(ResourceExhausted):
        host.put(make_request(100))
    assert not host.put(make_request(7))


def test_what_lay_in_the_outbox_before_is_for_nobody():
    post, request = Post(), make_request(1)
    post.outbox[post.place()] = make_request(1).ljust(MAILBOX_BYTES, b"\0")
    post.restart_host()
    post.host.put(request)
    post.hear()
    assert post.answered == []


def test_a_reply_to_something_else_is_cleaned_and_answers_nothing():
    post = Post()
    post.host.put(make_request(1))
    post.outbox[post.place()] = make_request(2).ljust(MAILBOX_BYTES, b"\0")
    post.hear()
    assert (post.answered, post.lost) == ([], [make_request(1)]) and split_mailbox(post.host.mailbox)[0] == CLEAN


def test_a_clean_that_was_not_waited_for_takes_no_request():
    post = Post()
    post.host.put(make_request(1))
    post.outbox[post.place()] = CLEAN.ljust(MAILBOX_BYTES, b"\0")
    post.hear()
    assert split_mailbox(post.host.mailbox)[0] == make_request(1)


def test_a_mailbox_that_is_not_whole_is_not_read():
    post, request = Post(), make_request(1)
    post.host.put(request)
    post.send()
    post.inbox[post.place().stop - 1] ^= 1
    post.scan()
    assert post.letters == []
    post.send()
    post.scan()
    assert [letter.message for letter in post.letters] == [request]


def test_a_new_spm_serves_what_lies_in_the_inbox():
    post, request = Post(), make_request(1)
    post.host.put(request)
    post.send(), post.scan()
    post.restart_spm()
    post.scan(), post.serve(), post.hear()
    assert post.answered == [request]
    post.send()
    post.restart_spm()  # while the host waits for "clean"
    post.scan(), post.hear(), post.send()
    assert bytes(post.inbox) == bytes(len(post.inbox))


def test_an_answer_to_a_host_that_gave_up_is_not_written():
    post = Post()
    post.host.put(make_request(1))
    post.send(), post.scan()
    post.restart_host()
    post.host.put(make_request(2))
    post.send(), post.scan()
    first, second = post.letters
    post.letters = [first]
    post.serve()
    assert post.get_slots(post.outbox)[0] == EMPTY
    post.letters = [second]
    post.serve(), post.hear()
    assert post.answered == [make_request(2)]


def test_the_event_block_and_mailboxes_beyond_the_last_host_are_no_mail():
    post = Post()
    request = format_mailbox([make_request(1), *[EMPTY] * (SLOTS - 1)])
    post.inbox[post.place(0)] = request
    post.inbox += request
    post.scan()
    assert post.letters == []


@given(st.binary(max_size=3 * MAILBOX_BYTES), st.binary(max_size=MAILBOX_BYTES).map(lambda data: data.ljust(4096)))
def test_neither_end_minds_what_it_reads(inbox, outbox):
    spm = SpmEnd(4)
    for letter in spm.scan(inbox):
        spm.answer(letter, letter.message)
    for letter in SpmEnd(2).scan(bytes(MAILBOX_BYTES) + outbox[:-4] + compute_checksum(outbox).to_bytes(4, "little")):
        assert not is_empty(letter.message) and letter.message != CLEAN
    host = HostEnd(inbox[:MAILBOX_BYTES])
    host.put(make_request(1))
    assert set(host.hear(outbox)) <= {make_request(1)}
    assert has_checksum(host.mailbox)


@given(st.lists(st.sampled_from("put send scan serve hear restart_spm restart_host".split()), max_size=60))
def test_in_any_order_of_events_every_request_ends(events):
    """It is answered; but where a host starts anew, what its slot was asked before may be answered in its place."""
    post, asked, number = Post(), [], 0
    for event in events:
        if event == "put":
            number += 1
            asked.append(make_request(number))
            post.host.put(asked[-1])
        elif event == "restart_host":
            asked.clear()  # who asked is gone with it
            post.answered.clear(), post.lost.clear()
            post.restart_host()
        else:
            getattr(post, event)()
    for _ in range(4):
        post.send(), post.scan(), post.serve(), post.hear()
    post.send()
    assert sorted(post.answered + post.lost) == sorted(asked)
    assert post.lost == [] or "restart_host" in events
    assert not post.host.is_waiting and bytes(post.inbox) == bytes(len(post.inbox))
