"""Both ends of the mailbox (facts: storage §7.5) as pure state: what is read goes in, what is to be written comes out.

A slot of the host's mailbox in the inbox, and what the SPM answers in the same slot of the outbox:

    empty ──▶ request ──(reply)──▶ clean ──(clean)──▶ empty
"""

import logging
from collections.abc import Iterator

from msgspec import Struct

from vdsm.core.errors import ResourceExhausted
from vdsm.storage.mail import mailbox as form

log = logging.getLogger("storage.mailbox")


class HostEnd:
    """This host's mailbox: its requests, and the SPM's answers, told apart from what lay there before."""

    def __init__(self, outbox: bytes) -> None:
        """`outbox` is this host's mailbox there as it is now: what it says was meant for somebody else."""
        self._seen = form.split_mailbox(outbox)
        self._slots = [form.EMPTY] * form.SLOTS

    @property
    def mailbox(self) -> bytes:
        """What this host's mailbox in the inbox shall be."""
        return form.format_mailbox(self._slots)

    @property
    def is_waiting(self) -> bool:
        """Whether the SPM has still to say something."""
        return any(slot != form.EMPTY for slot in self._slots)

    def put(self, request: bytes) -> bool:
        """Add a request to the mailbox; False when it waits there already. Raises ResourceExhausted."""
        if request in self._slots:
            return False
        if form.EMPTY not in self._slots:
            raise ResourceExhausted(f"{form.SLOTS} requests wait for the SPM")
        self._slots[self._slots.index(form.EMPTY)] = request
        return True

    def hear(self, outbox: bytes) -> dict[bytes, bool]:
        """Take in this host's mailbox of the outbox: the requests that are done with.

        Each was answered, whatever the answer, or not: something else was, in its place.
        """
        done = {}
        for number, (before, now) in enumerate(zip(self._seen, form.split_mailbox(outbox), strict=True)):
            ours = self._slots[number]
            if now == before or form.is_empty(now):
                continue
            if now == form.CLEAN:
                if ours == form.CLEAN:
                    self._slots[number] = form.EMPTY
                continue
            is_answer = ours[: form.IDENTITY_BYTES] == now[: form.IDENTITY_BYTES]
            if not is_answer:
                log.warning("slot %d of the outbox answers what was not asked: %s", number, now.hex())
            if ours not in (form.EMPTY, form.CLEAN):
                done[ours] = is_answer
            self._slots[number] = form.CLEAN
        self._seen = form.split_mailbox(outbox)
        return done


class Letter(Struct, frozen=True):
    """A request as the SPM found it."""

    host_id: int
    slot: int
    message: bytes


class SpmEnd:
    """All hosts' mailboxes as the SPM sees them. It knows nothing of what another SPM has read."""

    def __init__(self, mailbox_count: int) -> None:
        self._seen: list[bytes] = [bytes(form.MAILBOX_BYTES)] * mailbox_count
        self._answers: dict[int, list[bytes]] = {}
        self._unsent: set[int] = set()

    def scan(self, inbox: bytes) -> Iterator[Letter]:
        """Take in the whole inbox; the requests that are new. Mailbox 0 is nobody's."""
        for host_id in range(1, len(self._seen)):
            mailbox = inbox[host_id * form.MAILBOX_BYTES : (host_id + 1) * form.MAILBOX_BYTES]
            before = self._seen[host_id]
            if mailbox == before:
                continue
            if not form.has_checksum(mailbox):
                log.warning("the mailbox of host %d is not whole and is not read", host_id)
                continue
            self._seen[host_id] = mailbox
            yield from self._read(host_id, before, mailbox)

    def _read(self, host_id: int, before: bytes, mailbox: bytes) -> Iterator[Letter]:
        for slot, (old, new) in enumerate(zip(form.split_mailbox(before), form.split_mailbox(mailbox), strict=True)):
            if new == old or form.is_empty(new):
                continue
            if new == form.CLEAN:
                self._write(host_id, slot, form.CLEAN)
            else:
                yield Letter(host_id, slot, new)

    def answer(self, letter: Letter, reply: bytes) -> None:
        """Reply to a request, unless the host has given it up meanwhile."""
        if form.split_mailbox(self._seen[letter.host_id])[letter.slot] == letter.message:
            self._write(letter.host_id, letter.slot, reply)

    def _write(self, host_id: int, slot: int, message: bytes) -> None:
        self._answers.setdefault(host_id, [form.EMPTY] * form.SLOTS)[slot] = message
        self._unsent.add(host_id)

    def get_unsent(self) -> tuple[int, bytes] | None:
        """A host and its mailbox of the outbox, which has no checksum, that is to be written."""
        if not self._unsent:
            return None
        host_id = min(self._unsent)
        return host_id, b"".join(self._answers[host_id]).ljust(form.MAILBOX_BYTES, b"\0")

    def mark_sent(self, host_id: int, mailbox: bytes) -> None:
        """That mailbox is in the outbox; what was added meanwhile is still to be written."""
        self._unsent.discard(host_id)
        if not mailbox.startswith(b"".join(self._answers[host_id])):
            self._unsent.add(host_id)
