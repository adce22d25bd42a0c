"""`vdsm-tool`: sets a node up and looks after it (facts §7.1); a composition root.

Calling the daemon is left to `vdsm-client`.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vdsm import __version__
from vdsm.cli.accounts import add_to_group, find_owners, find_usual_qemu_user, has_group, is_real_node, parse_qemu_user
from vdsm.cli.group import CONTEXT, Group, UnknownWord, root_option
from vdsm.cli.rows import print_row, print_rows
from vdsm.core.errors import NodeError
from vdsm.core.paths import Paths
from vdsm.local import find_paths
from vdsm.settings import Settings, format_settings, load_settings

if TYPE_CHECKING:
    from vdsm.storage.domain import Domain
    from vdsm.storage.examination.places import Examination
    from vdsm.storage.examination.survey import Survey

PROGRAM = "vdsm-tool"
_COMMAND_TIMEOUT_S = 30.0
_LIBVIRT_TIMEOUT_S = 10.0


class _Actions(Group):
    kind = "action"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 1 (it failed, or no such action) or 2 (wrong options)."""
    try:
        status = command.main(list(sys.argv[1:] if argv is None else argv), prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 1 if isinstance(error, UnknownWord) else error.exit_code
    except click.Abort:
        return 130
    except (NodeError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0


@click.group(cls=_Actions, subcommand_metavar="<action> [options]", context_settings=CONTEXT)
@root_option
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def command(context: click.Context, root: Path | None) -> None:
    """Set this node up and look after it."""
    context.obj = find_paths(root)


@command.command()
@click.option("--force", is_flag=True, help="Also put right the modes and owners of folders that exist.")
@click.option(
    "--qemu-group/--no-qemu-group",
    default=None,
    help="Make qemu's user a member of the group that owns disks, and make that group if there is none. "
    "Without either option: only for the root /, as root, when the group exists.",
)
@click.pass_obj
def configure(paths: Paths, force: bool, qemu_group: bool | None) -> None:
    """Make the folders, certificates and configuration file that are missing; may be repeated at any time."""
    before = os.umask(0o022)
    try:
        done = _configure(paths, force, qemu_group)
    finally:
        os.umask(before)
    print("Configured." if done else "Configured already: nothing to do.")


def _configure(paths: Paths, force: bool, qemu_group: bool | None) -> int:
    from vdsm import pki
    from vdsm.cli.node import list_folders, make_folders, write_config

    settings = load_settings(paths).settings
    group_id = settings.storage.owner_gid
    owner, qemu = find_owners(paths, group_id)
    done = _print_each(make_folders(list_folders(paths), owner, force=force))
    done += _print_each(write_config(paths))
    done += _print_each(map(str, pki.ensure(paths.pki, owner=owner, qemu=qemu)))
    if qemu_group if qemu_group is not None else is_real_node(paths) and has_group(group_id):
        done += _print_each(_add_qemu_user(settings, group_id))
    return done


@command.command("is-configured")
@click.pass_obj
def is_configured(paths: Paths) -> int:
    """Exit with 0 when nothing is missing, else with 1 after telling what is."""
    return _report(paths, with_warnings=False)


@command.command("validate-config")
@click.pass_obj
def validate_config(paths: Paths) -> int:
    """Check configuration, folders and certificates; exit with 1 when the daemon could not work with them."""
    status = _report(paths, with_warnings=True)
    if status == 0:
        print("The configuration is usable.")
    return status


@command.command("renew-certificates")
@click.pass_obj
def renew_certificates(paths: Paths) -> int:
    """Renew the certificates that expire soon; a running daemon takes the new ones by itself."""
    from vdsm import pki

    owner, qemu = find_owners(paths, load_settings(paths).settings.storage.owner_gid)
    findings = pki.ensure(paths.pki, owner=owner, qemu=qemu)
    _print_each(map(str, findings))
    if not findings:
        print("Nothing expires soon.")
    return int(any(finding.done == "expiring" for finding in findings))


@command.command("show-default-config")
def show_default_config() -> None:
    """Print the configuration of a node that has no configuration file."""
    print(format_settings(Settings()), end="")


_domain = click.argument("domain")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_host_id = click.option(
    "--host-id", type=click.IntRange(1, 2000), help="This host's number in the pool; no other host may have it."
)
_master = click.option("--master", metavar="DOMAIN", help="The master domain that the pool of DOMAIN has now.")


@command.command("dump-volume-chains")
@_domain
@_json
@click.pass_obj
def dump_volume_chains(paths: Paths, domain: str, as_json: bool) -> None:
    """Print the volumes of a domain (its path, or its id), each after its parent."""
    from vdsm.storage.examination.reports import list_chains

    print_rows(list_chains(_survey(paths, domain)), as_json=as_json)


@command.command("volume-info")
@_domain
@click.argument("volume")
@_json
@click.pass_obj
def volume_info(paths: Paths, domain: str, volume: str, as_json: bool) -> None:
    """Print what a volume's record, file and lease tell."""
    from vdsm.storage.examination.reports import describe_volume

    print_row(describe_volume(_survey(paths, domain), volume), as_json=as_json)


@command.command("dump-leases")
@_domain
@_json
@click.pass_obj
def dump_leases(paths: Paths, domain: str, as_json: bool) -> None:
    """Print sanlock's records on a domain as they are on storage: hosts, the writer's, external ones, volumes'."""
    from vdsm.storage.examination.reports import list_leases

    print_rows(list_leases(_survey(paths, domain)), as_json=as_json)


@command.command("rebuild-xleases")
@_domain
@_host_id
@_master
@click.pass_obj
def rebuild_xleases(paths: Paths, domain: str, host_id: int | None, master: str | None) -> None:
    """Make the index of a domain's external leases and the leases behind it agree, as the domain's only writer."""
    examination = _examine(paths)
    found = examination.open(domain)
    with _writing(paths, examination, found, host_id, master):
        examination.rebuild_leases(found)
    print("Rebuilt.")


@command.command("check-domain")
@_domain
@_json
@click.option("--repair", is_flag=True, help="Mend what is safe to mend, as the domain's only writer.")
@_host_id
@_master
@click.pass_obj
def check_domain(
    paths: Paths, domain: str, as_json: bool, repair: bool, host_id: int | None, master: str | None
) -> int:
    """Compare a domain's metadata with its disk; exit with 1 when something is wrong. Only --repair writes."""
    from vdsm.storage.examination.reports import list_findings

    examination, repaired = _examine(paths), []
    if repair:
        found = examination.open(domain)
        with _writing(paths, examination, found, host_id, master):
            repaired = examination.repair(found)
    findings = examination.find_all(domain)
    print_rows(list_findings(findings, repaired), as_json=as_json)
    return int(bool(findings))


def _survey(paths: Paths, domain: str) -> "Survey":
    examination = _examine(paths)
    return examination.survey(examination.open(domain))


def _examine(paths: Paths) -> "Examination":
    """Domains as they are found without a daemon; what is mended is given to who owns the domain."""
    from vdsm.adapters.files import choose_owner
    from vdsm.adapters.qemuimg import QemuImgCommand
    from vdsm.adapters.sanlock import SanlockLeases
    from vdsm.core.clock import SystemClock
    from vdsm.storage.examination.places import Examination
    from vdsm.storage.layout import Layout
    from vdsm.storage.ports import Ownership

    def owner_of(path: Path) -> Ownership:
        status = path.lstat()
        return choose_owner((status.st_uid, status.st_gid) if os.geteuid() == 0 else None)

    leases = SanlockLeases(load_settings(paths).settings.sanlock.io_timeout)
    return Examination(Layout(paths), leases, QemuImgCommand(), SystemClock(), owner_of)


def _writing(
    paths: Paths, examination: "Examination", found: "Domain", host_id: int | None, master: str | None
) -> AbstractContextManager[None]:
    from vdsm.storage.examination.places import writing
    from vdsm.storage.model import DomainType

    with socket.socket(socket.AF_UNIX) as door:
        if door.connect_ex(str(paths.socket)) == 0:
            raise click.ClickException("the daemon runs and may write to the domain: stop it first")
    if host_id is None and found.metadata.type is not DomainType.LOCALFS:
        raise click.UsageError("other hosts share this domain: --host-id is needed, this host's number in the pool")
    return writing(found, host_id or 1, examination.open(master) if master else None)


def _print_each(lines: Iterable[str]) -> int:
    count = 0
    for line in lines:
        print(line)
        count += 1
    return count


def _report(paths: Paths, *, with_warnings: bool) -> int:
    from vdsm.adapters.accelerator import find_closed_device
    from vdsm.cli.node import Problem, find_problems

    problems = [problem for problem in find_problems(paths) if with_warnings or not problem.is_warning]
    if with_warnings and (closed := find_closed_device(find_usual_qemu_user())) is not None:
        problems.append(Problem(closed, is_warning=True))
    for problem in problems:
        print(f"warning: {problem.text}" if problem.is_warning else problem.text, file=sys.stderr)
    return int(any(not problem.is_warning for problem in problems))


def _add_qemu_user(settings: Settings, group_id: int) -> Iterable[str]:
    from vdsm.adapters.run import run

    user = _ask_libvirt_for_user(settings.libvirt.uri) or find_usual_qemu_user()
    if user is None:
        return [f"no user for qemu here: install libvirt and qemu, then repeat; group {group_id} is unchanged"]
    return add_to_group(user, group_id, lambda argv: run(argv, timeout_s=_COMMAND_TIMEOUT_S))


def _ask_libvirt_for_user(uri: str) -> str | None:
    """What libvirt's capabilities say; None when libvirt does not answer, which before the first start is usual."""
    try:
        from defusedxml.ElementTree import fromstring

        return parse_qemu_user(fromstring(asyncio.run(_get_capabilities(uri))))
    except (ImportError, NodeError, TimeoutError):
        return None


async def _get_capabilities(uri: str) -> str:
    from vdsm.adapters.libvirt.hypervisor import LibvirtHypervisor, connect

    async with connect(LibvirtHypervisor(uri)) as hypervisor, asyncio.timeout(_LIBVIRT_TIMEOUT_S):
        return await hypervisor.capabilities_xml()


if __name__ == "__main__":
    sys.exit(main())
