"""`vdsm-tool`: a node set up from nothing, again, and checked."""

import json
import os
import pwd
import socket
import tempfile
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from vdsm.cli.accounts import add_to_group, find_owners, is_real_node, parse_qemu_user
from vdsm.cli.node import find_problems
from vdsm.cli.tool import main
from vdsm.core.paths import Paths
from vdsm.pki import LEAF_LIFE, Owner
from vdsm.repository import open_repository
from vdsm.settings import Settings, load_settings
from vdsm.storage.images.volume_metadata import format_volume_metadata
from vdsm.storage.model import Allocation, DomainType, Legality, VolumeFormat, VolumeMetadata, VolumeRole


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def configured(root: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["--root", str(root), "configure"]) == 0
    capsys.readouterr()
    return root


def run(root: Path, *words: str) -> int:
    return main(["--root", str(root), *words])


def test_configure_makes_all_that_the_node_needs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o077)
    try:
        assert run(root, "configure") == 0
    finally:
        os.umask(before)
    told = capsys.readouterr().out
    for name in ("run/vdsm", "var/lib/vdsm", "var/log/vdsm", "rhev/data-center", "run/vdsm/payload", "var", "etc"):
        assert (root / name).stat().st_mode & 0o7777 == 0o755
    assert (root / "run/vdsm/v2v").stat().st_mode & 0o7777 == 0o700
    assert f"{root / 'rhev/data-center'}: made" in told
    assert f"{root / 'etc/pki/vdsm/certs/vdsmcert.pem'}: made" in told
    assert run(root, "is-configured") == 0
    assert run(root, "validate-config") == 0


def test_repeating_it_changes_nothing(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in configured.rglob("*") if path.name != ".lock"}
    assert run(configured, "configure") == 0
    assert {path: path.stat().st_mtime_ns for path in configured.rglob("*") if path.name != ".lock"} == before
    assert capsys.readouterr().out == "Configured already: nothing to do.\n"


def test_the_configuration_file_lists_every_setting_and_changes_none(configured: Path) -> None:
    text = (configured / "etc/vdsm/vdsm.conf").read_text()
    assert "#management_port = 54321\n" in text
    assert load_settings(Paths(configured)).settings == Settings()
    (configured / "etc/vdsm/vdsm.conf").write_text(text.replace("#management_port = 54321", "management_port = 6001"))
    assert load_settings(Paths(configured)).settings.addresses.management_port == 6001


def test_a_configuration_file_is_never_replaced(configured: Path) -> None:
    file = configured / "etc/vdsm/vdsm.conf"
    file.write_text("[vars]\nssl = true\n")
    assert run(configured, "configure", "--force") == 0
    assert file.read_text() == "[vars]\nssl = true\n"


def test_only_force_changes_the_mode_of_a_folder_that_exists(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = configured / "run/vdsm"
    folder.chmod(0o711)
    run(configured, "configure")
    assert folder.stat().st_mode & 0o7777 == 0o711
    assert f"{folder}: left as it is (mode 0711, not 0755)" in capsys.readouterr().out
    run(configured, "configure", "--force")
    assert folder.stat().st_mode & 0o7777 == 0o755


def test_what_is_missing_is_told(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (configured / "etc/pki/vdsm/keys/vdsmkey.pem").unlink()
    (configured / "var/log/vdsm").rmdir()
    assert run(configured, "is-configured") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{configured / 'var/log/vdsm'}: missing",
        f"{configured / 'etc/pki/vdsm/keys/vdsmkey.pem'}: missing",
    ]


def test_a_setting_that_makes_no_sense_is_told(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (configured / "etc/vdsm/vdsm.conf").write_text("[addresses]\nmanagement_port = many\n")
    assert run(configured, "validate-config") == 1
    assert "[addresses] management_port" in capsys.readouterr().err


def test_a_setting_that_is_not_known_is_a_warning(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (configured / "etc/vdsm/vdsm.conf").write_text("[vars]\nssll = true\n")
    assert run(configured, "validate-config") == 0
    assert capsys.readouterr().err.startswith("warning: ")


def test_a_certificate_without_its_key_is_told(configured: Path) -> None:
    certificates = configured / "etc/pki/vdsm/certs"
    (certificates / "vdsmcert.pem").write_bytes((certificates / "clientcert.pem").read_bytes())
    (problem,) = find_problems(Paths(configured))
    assert str(certificates / "vdsmcert.pem") in problem.text
    assert not problem.is_warning


def test_certificates_are_judged_by_their_dates(configured: Path) -> None:
    paths = Paths(configured)
    later = datetime.now(UTC) + LEAF_LIFE
    assert [problem.is_warning for problem in find_problems(paths, later - timedelta(days=30))] == [True, True]
    assert [problem.is_warning for problem in find_problems(paths, later + timedelta(days=1))] == [False, False]


def test_without_tls_no_certificate_is_missed(configured: Path) -> None:
    (configured / "etc/pki/vdsm/keys/vdsmkey.pem").unlink()
    (configured / "etc/vdsm/vdsm.conf").write_text("[vars]\nssl = false\n")
    assert list(find_problems(Paths(configured))) == []


def test_renewing_early_is_said_to_be_needless(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(configured, "renew-certificates") == 0
    assert capsys.readouterr().out == "Nothing expires soon.\n"
    (configured / "etc/pki/vdsm/certs/clientcert.pem").unlink()
    assert run(configured, "renew-certificates") == 0
    assert "clientcert.pem: made" in capsys.readouterr().out


def test_the_default_configuration_is_printed_whatever_is_configured(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (configured / "etc/vdsm/vdsm.conf").write_text("[addresses]\nmanagement_port = 6001\n")
    run(configured, "show-default-config")
    assert "\nmanagement_port = 54321\n" in capsys.readouterr().out


def test_a_closed_kvm_is_a_warning(
    configured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdsm.adapters.accelerator.find_closed_device", lambda user: "/dev/kvm is closed to qemu")
    assert run(configured, "validate-config") == 0
    assert "warning: /dev/kvm is closed to qemu" in capsys.readouterr().err
    assert run(configured, "is-configured") == 0


@pytest.mark.parametrize(
    ("words", "status"), [(["bogus"], 1), (["configure", "--bogus"], 2), (["is-configured", "x"], 2)]
)
def test_wrong_words(root: Path, words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, *words) == status
    assert capsys.readouterr().err.startswith("Usage: vdsm-tool")
    assert not root.exists()


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file/below", "configure") == 1
    assert capsys.readouterr().err.startswith("vdsm-tool: ")


class TestAccounts:
    """Users and groups; nothing is changed here."""

    def test_other_roots_belong_to_whoever_makes_them(self, tmp_path: Path) -> None:
        assert not is_real_node(Paths(tmp_path))
        assert find_owners(Paths(tmp_path), 36) == (Owner(), Owner())

    @pytest.mark.parametrize("label", ["+0:+0", "0:0"])
    def test_libvirt_names_the_user_of_qemu_by_number(self, label: str) -> None:
        text = (
            "<capabilities><host><secmodel><model>apparmor</model></secmodel><secmodel><model>dac</model>"
            f"<baselabel type='kvm'>{label}</baselabel></secmodel></host></capabilities>"
        )
        assert parse_qemu_user(fromstring(text)) == "root"

    @pytest.mark.parametrize("label", ["+4294967294:+0", "nobody:nogroup", ""])
    def test_a_user_that_does_not_exist_is_nobody(self, label: str) -> None:
        text = f"<a><host><secmodel><model>dac</model><baselabel>{label}</baselabel></secmodel></host></a>"
        assert parse_qemu_user(fromstring(text)) is None
        assert parse_qemu_user(fromstring("<capabilities><host/></capabilities>")) is None

    def test_a_group_that_is_missing_is_made_and_joined(self) -> None:
        commands: list[Sequence[str]] = []
        lines = list(add_to_group("daemon", 2_000_000_000, commands.append))
        assert commands == [
            ["groupadd", "--gid", "2000000000", "vdsm"],
            ["usermod", "--append", "--groups", "vdsm", "daemon"],
        ]
        assert len(lines) == 2

    def test_a_member_is_not_added_again(self) -> None:
        commands: list[Sequence[str]] = []
        entry = pwd.getpwuid(0)
        assert list(add_to_group(entry.pw_name, entry.pw_gid, commands.append)) == []
        assert commands == []


# Domains without a daemon.


@pytest.fixture
def domain(root: Path) -> str:
    repository = open_repository(root)
    (root / "disks").mkdir(parents=True)
    domain_id = str(uuid.uuid4())
    repository.servers.connect(DomainType.LOCALFS, str(root / "disks"))
    repository.domains.create(DomainType.LOCALFS, domain_id, "\x1b[31mred", str(root / "disks"))
    return domain_id


def test_a_sound_domain_has_nothing_to_tell(root: Path, domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("check-domain", "dump-leases", "dump-volume-chains"):
        for word in (domain, str(root / "disks" / domain)):
            assert run(root, action, word) == 0
            assert capsys.readouterr().out == "Nothing.\n"
        assert run(root, action, "--json", domain) == 0
        assert capsys.readouterr().out == "[]\n"


def test_what_is_wrong_is_told_in_a_table_and_in_json(
    root: Path, domain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "disks" / domain / "images/\x1b[31m").touch()
    (root / "disks" / domain / "dom_md/metadata.new").touch()
    assert run(root, "check-domain", domain) == 1
    told = capsys.readouterr().out
    assert "\x1b" not in told and "\\x1b[31m" in told and "--repair mends it" in told
    assert run(root, "check-domain", domain, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in found] == ["leftover", "stray"]
    assert found[1]["place"] == "images/\x1b[31m"
    assert run(root, "check-domain", domain, "--repair", "--json") == 1
    assert [row["outcome"] for row in json.loads(capsys.readouterr().out)] == ["repaired", ""]


def test_a_volume_is_told_line_by_line(root: Path, domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    image, volume, blank = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.UUID(int=0))
    folder = root / "disks" / domain / "images" / image
    folder.mkdir()
    (folder / volume).write_bytes(bytes(1 << 20))
    record = VolumeMetadata(
        domain,
        image,
        blank,
        1 << 20,
        VolumeFormat.RAW,
        Allocation.SPARSE,
        VolumeRole.LEAF,
        "DATA",
        "\x07text",
        Legality.LEGAL,
        1_700_000_000,
    )
    (folder / f"{volume}.meta").write_bytes(format_volume_metadata(record, 5))
    assert run(root, "volume-info", domain, volume) == 0
    told = capsys.readouterr().out
    assert "1 MiB" in told and "\\x07text" in told and "2023-11-14" in told
    assert run(root, "volume-info", domain, volume, "--json") == 0
    assert json.loads(capsys.readouterr().out)["file_format"] == "raw"
    assert run(root, "volume-info", domain, str(uuid.uuid4())) == 1
    assert "Volume does not exist" in capsys.readouterr().err
    assert run(root, "dump-volume-chains", domain) == 0
    assert image[:8] in capsys.readouterr().out


def test_what_cannot_be_done_is_said_and_nothing_is_written(
    root: Path, domain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    leftover = root / "disks" / domain / "dom_md/metadata.new"
    leftover.touch()
    assert run(root, "rebuild-xleases", domain) == 1
    assert "no external leases" in capsys.readouterr().err
    assert run(root, "check-domain", str(uuid.uuid4())) == 1
    assert "Storage domain does not exist" in capsys.readouterr().err
    door = socket.socket(socket.AF_UNIX)
    with door, tempfile.TemporaryDirectory(dir="/tmp") as short:  # paths of sockets must be short
        (root / "run").symlink_to(short)
        (root / "run/vdsm").mkdir()
        door.bind(str(Path(short) / "vdsm/vdsmd.sock"))
        door.listen()
        assert run(root, "check-domain", "--repair", domain) == 1
        assert "the daemon runs" in capsys.readouterr().err
    assert leftover.exists()
