"""A node's folders, configuration file and certificates: made where they are missing, checked where they are not.

Who owns them and which users are changed is decided in `tool`; what the certificates say is left to `vdsm.pki`.
"""

import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from msgspec import Struct

from vdsm import pki
from vdsm.core.paths import Paths
from vdsm.settings import InvalidSetting, Settings, format_settings, load_settings
from vdsm.wire.tls import TlsFiles, make_client_context, make_server_context

CONFIG_HEAD = """\
# The configuration of this node. Every setting is listed with its default; remove the # before one to change it.
# Files in vdsm.conf.d beside this one are read after it. vdsm-tool validate-config tells what is wrong.

"""


class Folder(Struct, frozen=True):
    """A folder of the node and who may do what in it."""

    path: Path
    mode: int
    is_ours: bool = True
    """Whether it belongs to the daemon's user; configuration and certificates are root's."""


class Problem(Struct, frozen=True):
    """What is wrong with the node; the daemon starts in spite of a mere warning."""

    text: str
    is_warning: bool = False


def list_folders(paths: Paths) -> tuple[Folder, ...]:
    """Every folder that the daemon needs, outer ones first (facts §7.3)."""
    return (
        Folder(paths.config, 0o755, is_ours=False),
        Folder(paths.pki, 0o755, is_ours=False),
        Folder(paths.run, 0o755),
        Folder(paths.run / "v2v", 0o700),
        Folder(paths.run / "payload", 0o755),
        Folder(paths.state, 0o755),
        Folder(paths.log, 0o755),
        Folder(paths.repository, 0o755),
    )


def make_folders(folders: tuple[Folder, ...], owner: pki.Owner, *, force: bool) -> Iterator[str]:
    """Make the folders that are missing; with `force` put right the mode and owner of others. Tells what it did."""
    for folder in folders:
        if not folder.path.exists():
            folder.path.mkdir(parents=True)
            _put_right(folder, owner)
            yield f"{folder.path}: made"
        elif fault := _find_fault(folder, owner):
            if force:
                _put_right(folder, owner)
                yield f"{folder.path}: put right ({fault})"
            else:
                yield f"{folder.path}: left as it is ({fault}); --force puts it right"


def write_config(paths: Paths) -> Iterator[str]:
    """Write a configuration file that lists every setting, unless there is one. Tells what it did."""
    lines = format_settings(Settings()).splitlines()
    text = CONFIG_HEAD + "".join(f"{line if not line or line[0] in '#[' else f'#{line}'}\n" for line in lines)
    if paths.config_file.exists():
        return
    pki.write_file(paths.config_file, text.encode(), 0o644)
    yield f"{paths.config_file}: made"


def find_problems(paths: Paths, now: datetime | None = None) -> Iterator[Problem]:
    """All that is wrong with the node's configuration, folders and certificates; nothing is changed."""
    try:
        loaded = load_settings(paths)
    except InvalidSetting as error:
        yield Problem(str(error))
        return
    yield from (Problem(warning, is_warning=True) for warning in loaded.warnings)
    for folder in list_folders(paths):
        if not folder.path.is_dir():
            yield Problem(f"{folder.path}: {'not a folder' if folder.path.exists() else 'missing'}")
    if loaded.settings.vars.ssl:
        yield from _find_bad_certificates(paths.pki, now or datetime.now(UTC))


def _find_bad_certificates(folder: Path, now: datetime) -> Iterator[Problem]:
    server, client = TlsFiles.below(folder), TlsFiles.of_client(folder)
    for files, make_context in ((server, make_server_context), (client, make_client_context)):
        if files is client and not client.certificate.exists() and not client.key.exists():
            continue  # a host that a management platform set up has the daemon's certificate only
        missing = [path for path in (files.key, files.certificate, files.authority) if not path.exists()]
        if missing:
            yield from (Problem(f"{path}: missing") for path in missing)
            continue
        try:
            make_context(files)
            yield from _check_dates(files.certificate, now)
        except (ssl.SSLError, ValueError) as error:
            yield Problem(f"{files.certificate}: cannot be used with its key and authority ({error})")
        except OSError as error:
            yield Problem(str(error))


def _check_dates(path: Path, now: datetime) -> Iterator[Problem]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    end = certificate.not_valid_after_utc
    if not certificate.not_valid_before_utc <= now < end:
        yield Problem(f"{path}: valid from {certificate.not_valid_before_utc:%Y-%m-%d} to {end:%Y-%m-%d} only")
    elif now >= end - pki.RENEW_BEFORE:
        yield Problem(f"{path}: expires on {end:%Y-%m-%d}; vdsm-tool renew-certificates renews it", is_warning=True)


def _find_fault(folder: Folder, owner: pki.Owner) -> str:
    status = folder.path.stat()
    faults = []
    if not folder.path.is_dir():
        return "not a folder"
    if status.st_mode & 0o7777 != folder.mode:
        faults.append(f"mode {status.st_mode & 0o7777:04o}, not {folder.mode:04o}")
    user_id, group_id = _get_owner(folder, owner)
    if user_id not in (-1, status.st_uid) or group_id not in (-1, status.st_gid):
        faults.append(f"owner {status.st_uid}:{status.st_gid}, not {user_id}:{group_id}")
    return ", ".join(faults)


def _get_owner(folder: Folder, owner: pki.Owner) -> tuple[int, int]:
    """Numeric user and group; -1 for what stays as it is."""
    return owner.numbers if folder.is_ours else (-1, -1)


def _put_right(folder: Folder, owner: pki.Owner) -> None:
    os.chown(folder.path, *_get_owner(folder, owner))
    folder.path.chmod(folder.mode)
