"""Users and groups that a node needs: whose the daemon's files are, and qemu's user in the group that owns disks.

How programs are run and libvirt is asked is handed in by `tool`.
"""

import grp
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from xml.etree.ElementTree import Element

from vdsm.core.paths import Paths
from vdsm.pki import Owner

DAEMON_USER = "vdsm"
QEMU_USERS = ("qemu", "libvirt-qemu")
"""What distributions call qemu's user, for when libvirt cannot be asked."""


def is_real_node(paths: Paths) -> bool:
    """Whether this is the machine's own node, set up by root; others are for demonstrations and tests."""
    return paths.root.resolve() == paths.root.resolve().parent and os.geteuid() == 0


def find_owners(paths: Paths, group_id: int) -> tuple[Owner, Owner]:
    """Who the daemon's files belong to, and those that qemu reads too.

    On the machine's own node the daemon's user and the group that owns disks, as far as they exist: qemu's user is a
    member of that group. Elsewhere whoever makes the files.
    """
    if not is_real_node(paths):
        return Owner(), Owner()
    with suppress(KeyError):
        user_id = pwd.getpwnam(DAEMON_USER).pw_uid
        return Owner(user_id, group_id), Owner(user_id, group_id, group_readable=True)
    return Owner(), Owner(None, group_id, group_readable=True) if has_group(group_id) else Owner()


def parse_qemu_user(capabilities: Element) -> str | None:
    """The user that libvirt runs qemu as, by its capabilities; None when they do not say or no such user exists."""
    for model in capabilities.iterfind("./host/secmodel"):
        label = model.findtext("baselabel") if model.findtext("model") == "dac" else None
        if label is not None:
            with suppress(KeyError, ValueError):
                return pwd.getpwuid(int(label.partition(":")[0].lstrip("+"))).pw_name
    return None


def find_usual_qemu_user() -> str | None:
    """The first of the users that distributions make for qemu."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in QEMU_USERS if name in names), None)


def add_to_group(user: str, group_id: int, run: Callable[[Sequence[str]], object]) -> Iterator[str]:
    """Make a user a member of the group that owns disks, through `run`, unless it is one. Tells what it did."""
    try:
        group = grp.getgrgid(group_id)
    except KeyError:
        run(["groupadd", "--gid", str(group_id), DAEMON_USER])
        yield f"group {DAEMON_USER} ({group_id}): made"
        name, members = DAEMON_USER, [""]
    else:
        name, members = group.gr_name, group.gr_mem
    if user in members or pwd.getpwnam(user).pw_gid == group_id:
        return
    run(["usermod", "--append", "--groups", name, user])
    yield f"user {user}: added to group {name} ({group_id})"


def has_group(group_id: int) -> bool:
    """Whether this machine knows the group."""
    try:
        grp.getgrgid(group_id)
    except KeyError:
        return False
    return True
