"""What connections stand for: mount options exactly as the facts tell, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vdsm.storage.connect import check_connection, format_gluster_options, format_nfs_options, split_gluster
from vdsm.storage.errors import InvalidParameterException
from vdsm.storage.model import DomainType, ServerConnection
from vdsm.storage.ports import GlusterInfo

PLAIN = ServerConnection("server:/path")
START = "soft,nosharecache,timeo=100,retrans=3"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, f"{START},nfsvers=3,nolock"),
        ({"protocol_version": "auto"}, f"{START},nolock"),
        ({"protocol_version": "4"}, f"{START},nfsvers=4"),
        ({"protocol_version": "4.0"}, f"{START},nfsvers=4,minorversion=0"),
        ({"protocol_version": "4.2"}, f"{START},nfsvers=4,minorversion=2"),
        ({"timeout_ds": 600, "retransmissions": 6}, "soft,nosharecache,timeo=600,retrans=6,nfsvers=3,nolock"),
        ({"options": "lock"}, f"{START},nfsvers=3,lock"),
        ({"options": "nolock,sec=sys"}, f"{START},nfsvers=3,nolock,sec=sys"),
        ({"options": "rsize=1048576,,proto=tcp"}, f"{START},nfsvers=3,rsize=1048576,proto=tcp,nolock"),
        ({"protocol_version": "4.1", "options": "lock"}, f"{START},nfsvers=4,minorversion=1,lock"),
    ],
)
def test_options_of_nfs(changes: dict[str, str], options: str) -> None:
    assert format_nfs_options(replace(PLAIN, **changes)) == options  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("servers", "options", "expected"),
    [
        (None, "", ""),
        (("server",), "", ""),
        (("server", "two", "three", "two"), "", "backup-volfile-servers=two:three"),
        (("two",), "log-level=DEBUG", "log-level=DEBUG,backup-volfile-servers=two"),
        (("two",), "backup-volfile-servers=mine", "backup-volfile-servers=mine"),
        (("two,log-file=/etc/passwd", "three x", "$(reboot)"), "", ""),
    ],
)
def test_options_of_gluster(servers: tuple[str, ...] | None, options: str, expected: str) -> None:
    info = None if servers is None else GlusterInfo(servers, 3)
    assert format_gluster_options(replace(PLAIN, options=options), info) == expected


def test_parts_of_a_gluster_place() -> None:
    assert split_gluster("server:/volume") == split_gluster("server:volume") == ("server", "volume")
    assert split_gluster("[2001:db8::5]:/volume") == ("[2001:db8::5]", "volume")


@pytest.mark.parametrize("type", [DomainType.NFS, DomainType.POSIXFS, DomainType.GLUSTERFS])
@pytest.mark.parametrize(
    "changes",
    [
        {"place": ""},
        {"place": "-osuid:/x"},
        {"place": "server:/a\nb"},
        {"place": "server:/a\0b"},
        {"place": "server:/" + "x" * 5000},
        {"place": ".."},
        {"place": "blockSD/"},
        {"place": "glusterSD"},
        {"options": "suid"},
        {"options": "soft,bg"},
        {"options": "ro,exec"},
        {"options": "DEV"},
        {"options": "bind"},
        {"options": "remount,rw"},
        {"options": "loop=/dev/loop0"},
        {"options": "user=me"},
        {"options": "X-mount.mkdir"},
        {"options": "log-file=/etc/shadow"},
        {"options": "ro --bind"},
        {"options": "ro;reboot"},
        {"options": "a=$(reboot)"},
        {"options": "ro\n"},
        {"options": "dump-fuse=/etc/shadow"},
        {"options": "make-rprivate"},
        {"filesystem": "-oexec"},
        {"filesystem": "fuse"},
        {"filesystem": "fuse.bash"},
        {"filesystem": "glusterfs", "place": "/tmp/any.vol"},
        {"filesystem": "glusterfs", "place": "server:/$(reboot)"},
        {"filesystem": "nfs,ext4"},
        {"filesystem": "a/../b"},
    ],
)
def test_refusals(type: DomainType, changes: dict[str, str]) -> None:
    with pytest.raises(InvalidParameterException):
        check_connection(type, replace(PLAIN, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["", "3.", "4.1.2", "four", "4.x", "-4", "None", "4 ", "400"])
def test_versions_of_nfs_that_are_none(version: str) -> None:
    with pytest.raises(InvalidParameterException):
        check_connection(DomainType.NFS, replace(PLAIN, protocol_version=version))


@pytest.mark.parametrize("changes", [{"retransmissions": -1}, {"timeout_ds": 1 << 40}])
def test_numbers_that_make_no_sense(changes: dict[str, int]) -> None:
    with pytest.raises(InvalidParameterException):
        check_connection(DomainType.NFS, replace(PLAIN, **changes))  # type: ignore[arg-type]


def test_one_place_has_one_spelling() -> None:
    for spelling in ("server:/path", "server://path//", "server:/a/../path/."):
        assert check_connection(DomainType.NFS, ServerConnection(spelling)) == PLAIN


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_let_through_is_one_word_of_harmless_options(place: str, options: str) -> None:
    try:
        checked = check_connection(DomainType.NFS, ServerConnection(place, options=options))
    except InvalidParameterException:
        return
    assert not checked.place.startswith("-") and "\n" not in checked.place and "\0" not in checked.place
    words = format_nfs_options(checked).lower().split(",")
    assert not {"suid", "exec", "dev", "bind", "remount"} & {word.partition("=")[0] for word in words}
