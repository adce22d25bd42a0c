"""Every setting, declared once with type, default and reason; read from INI files (facts §7.4), printed and published.

A field of a group below is a setting: its name is the key, its group's name in `Settings` the section. What a setting
does is left to the one who uses it.
"""

import configparser
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin, get_type_hints

from vdsm.core.errors import NodeError
from vdsm.core.paths import Paths

T = TypeVar("T")
MIB = 1 << 20


class InvalidSetting(NodeError, number=100, text="{file}: {where}: expected {expected}, found {found!r}"):
    """The configuration cannot be used as it is written; the daemon does not start."""

    file: str
    where: str
    expected: str
    found: str


def setting(default: T, reason: str, *, minimum: float | None = None, maximum: float | None = None) -> T:
    """Declare a field as a setting; the bounds are for numbers and include their ends."""
    return field(default=default, metadata={"reason": reason, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where clients find the daemon."""

    management_ip: str = setting(
        "::", "address to listen on; :: takes IPv4 and IPv6; without TLS only loopback is used"
    )
    management_port: int = setting(54321, "the one TCP port for all dialects", minimum=0, maximum=65535)
    request_queues: tuple[str, ...] = setting(
        ("jms.topic.vdsm_requests", "jms.topic.vdsm_irs_requests"), "STOMP destinations that take requests"
    )
    event_queue: str = setting("jms.queue.events", "STOMP destination that events are sent to")
    socket_group: str = setting("", "group that may use the unix socket; empty: the daemon's own group")


@dataclass(frozen=True, slots=True)
class Vars:
    """What older configuration files call `vars`."""

    ssl: bool = setting(True, "TLS with client certificates on the port; without it only loopback is served")
    verify_client_cert: bool = setting(False, "also compare the name in a client's certificate with its address")
    vm_sample_interval: float = setting(15.0, "s between samples of all VMs", minimum=0.1)
    vm_sample_jobs_interval: float = setting(15.0, "s between looks at a VM's merge, if libvirt is silent", minimum=0.1)
    time_sync_snapshot_enable: bool = setting(False, "have guests read their clocks anew after a snapshot")
    host_sample_stats_interval: float = setting(15.0, "s between samples of the host", minimum=0.1)
    vm_command_timeout: float = setting(60.0, "s until a VM's monitor counts as unresponsive", minimum=1)
    sys_shutdown_timeout: int = setting(120, "s that a guest gets to shut down", minimum=0)
    user_shutdown_timeout: int = setting(30, "s that users of a guest are warned before it shuts down", minimum=0)
    qemu_drive_cache: str = setting("none", "cache mode of disks that ask for none of their own")
    fake_kvm_support: bool = setting(False, "pass for a host with KVM where there is none, for tests with an engine")
    fake_kvm_memory: int = setting(0, "MiB of memory to pass for then; 0: as it is", minimum=0)
    host_mem_reserve: int = setting(256, "MiB kept for the host", minimum=0)
    extra_mem_reserve: int = setting(65, "MiB kept for other programs", minimum=0)
    guest_ram_overhead: int = setting(65, "MiB that a VM takes beside its own memory", minimum=0)
    migration_max_bandwidth: int = setting(52, "MiB/s of one migration; 0: as much as it can get", minimum=0)
    migration_downtime: int = setting(500, "ms that a guest may stand still when it migrates", minimum=1)
    migration_downtime_steps: int = setting(5, "steps up to that, as long as a migration finds no end", minimum=1)
    max_outgoing_migrations: int = setting(2, "VMs on their way out at once", minimum=0)
    max_incoming_migrations: int = setting(2, "VMs on their way here at once", minimum=0)
    migration_retry_timeout: float = setting(10.0, "s between two tries at a host that has no room", minimum=0.1)
    migration_monitor_interval: float = setting(10.0, "s between looks at a migration; 0: none", minimum=0)
    migration_create_timeout: float = setting(600.0, "s that another host gets to prepare for a VM", minimum=1)
    migration_destination_timeout: float = setting(21600.0, "s that a VM may take to come here", minimum=1)
    migration_listener_timeout: float = setting(30.0, "s to prepare for a VM, more with many VMs", minimum=0.1)
    migration_listener_prepare_disk_timeout: float = setting(2.0, "s more for each mapped disk of it", minimum=0)
    max_migration_listener_timeout: float = setting(600.0, "s to prepare for a VM at most", minimum=0.1)
    report_host_threads_as_cores: bool = setting(False, "count threads as cores")


@dataclass(frozen=True, slots=True)
class Irs:
    """Storage, as older configuration files call it."""

    thread_pool_size: int = setting(10, "storage tasks of one kind at work on one domain", minimum=1, maximum=1000)
    max_tasks: int = setting(500, "storage tasks that may wait for a domain", minimum=1)
    task_resource_default_timeout: int = setting(120_000, "ms that a task waits for a storage lock", minimum=0)
    sd_health_check_delay: float = setting(10.0, "s between checks of a storage domain", minimum=0.1)
    process_pool_timeout: float = setting(60.0, "s until an operation on storage counts as stuck", minimum=1)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """How hosts that share storage ask its SPM for larger volumes."""

    events_enable: bool = setting(True, "tell the SPM of mail at once, and look for that; without it every 2 s")
    events_interval: float = setting(0.5, "s between looks for news", minimum=0.05, maximum=2)


@dataclass(frozen=True, slots=True)
class Sanlock:
    """Leases between hosts."""

    io_timeout: int = setting(
        10,
        "s that storage may take before a host's leases are in danger; the same on all hosts",
        minimum=1,
        maximum=255,
    )


@dataclass(frozen=True, slots=True)
class Spm:
    """The one writer of a pool's metadata."""

    watchdog_enable: bool = setting(
        True, "end the daemon when sanlock, or its lease on storage, no longer knows it as the writer"
    )
    watchdog_interval: float = setting(20.0, "s between looks at that", minimum=0.1)


@dataclass(frozen=True, slots=True)
class Libvirt:
    """The hypervisor's daemon."""

    uri: str = setting("qemu:///system", "which libvirt to drive")


@dataclass(frozen=True, slots=True)
class Virt:
    """Virtual machines."""

    accelerator: Literal["auto", "kvm", "tcg"] = setting(
        "auto", "what VMs run on: KVM, software emulation (tcg), or whichever proves faster when measured"
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep one client from hurting others."""

    frame_bytes: int = setting(16 * MIB, "largest STOMP frame or HTTP body", minimum=65536)
    header_bytes: int = setting(64 * 1024, "largest headers of a frame or request", minimum=1024)
    unsent_bytes: int = setting(8 * MIB, "a client that leaves more than this unread is cut off", minimum=65536)
    nesting: int = setting(64, "deepest nesting of JSON", minimum=8, maximum=256)
    batch: int = setting(1000, "requests in one JSON-RPC body", minimum=1)
    batch_bytes: int = setting(MIB, "largest JSON-RPC body with several requests", minimum=1024)
    calls_in_flight: int = setting(1000, "calls that are worked on at once", minimum=1)
    call_bytes_in_flight: int = setting(64 * MIB, "size of the calls that are worked on at once", minimum=MIB)
    connections: int = setting(1000, "clients that are connected at once", minimum=1)
    unproven_connections: int = setting(200, "connections still in handshake; beyond it the oldest goes", minimum=1)
    subscriptions: int = setting(1000, "subscriptions of one connection", minimum=1)
    name_length: int = setting(1024, "characters of a destination or of a subscription's id", minimum=64)
    handshake_s: float = setting(10.0, "s that a TLS handshake may take", minimum=0.1)
    detection_s: float = setting(10.0, "s until a client must have said something that is understood", minimum=0.1)
    closing_s: float = setting(5.0, "s that a client may take to read its last words", minimum=0.1)
    request_head_s: float = setting(10.0, "s that the head of an HTTP request may take", minimum=0.1)
    request_body_s: float = setting(60.0, "s of silence within or after an HTTP request that end it", minimum=0.1)
    heartbeat_ms: int = setting(1000, "shortest heart-beat that is agreed on", minimum=100)


@dataclass(frozen=True, slots=True)
class Storage:
    """The image repository."""

    restore: bool = setting(True, "after a restart, connect again what was connected, in the background")
    owner_uid: int = setting(36, "numeric owner of disks; 36 is vdsm on oVirt hosts", minimum=0, maximum=2**31)
    relabel: bool = setting(
        False, "let libvirt hand local disks to qemu's user, where that is in no group of the owner"
    )
    owner_gid: int = setting(36, "numeric group of disks; 36 is kvm on oVirt hosts", minimum=0, maximum=2**31)
    accept_false_zeroes: bool = setting(
        False, "use FUSE mounts that say that they zeroed a range and did not, though VMs may then read old data there"
    )


@dataclass(frozen=True, slots=True)
class Jobs:
    """Long work that callers follow by ids of theirs."""

    autodelete_delay: int = setting(3600, "s that a finished job is remembered; negative: as long as the daemon runs")


@dataclass(frozen=True, slots=True)
class Log:
    """What is logged, and where."""

    to: Literal["stderr", "file"] = setting("stderr", "stderr, or var/log/vdsm/vdsm.log under the daemon's root")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting("INFO", "lowest level that is logged")
    levels: tuple[str, ...] = setting((), "levels of single loggers, such as storage=DEBUG,jsonrpc=WARNING")
    queue_records: int = setting(2000, "lines that may wait for a slow disk before less important ones go", minimum=100)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, by section."""

    addresses: Addresses = Addresses()
    vars: Vars = Vars()
    irs: Irs = Irs()
    mailbox: Mailbox = Mailbox()
    sanlock: Sanlock = Sanlock()
    spm: Spm = Spm()
    libvirt: Libvirt = Libvirt()
    virt: Virt = Virt()
    wire: Limits = Limits()
    storage: Storage = Storage()
    jobs: Jobs = Jobs()
    log: Log = Log()

    def with_port(self, port: int) -> "Settings":
        """The same, but listening on another port."""
        return replace(self, addresses=replace(self.addresses, management_port=port))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as declared."""

    section: str
    key: str
    type: object
    default: object
    reason: str
    minimum: float | None = None
    maximum: float | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it may be; empty when it is not a choice."""
        return tuple(map(str, get_args(self.type))) if get_origin(self.type) is Literal else ()

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple

    @property
    def expected(self) -> str:
        """What may be written, in words."""
        if self.words:
            return f"one of {', '.join(self.words)}"
        if self.type is bool:
            return "true or false"
        if self.type in (int, float):
            kind = "an integer" if self.type is int else "a number"
            low = "" if self.minimum is None else f" from {self.minimum:.10g}"
            return f"{kind}{low}" + ("" if self.maximum is None else f" to {self.maximum:.10g}")
        return "words between commas" if self.is_list else "text"

    def parse(self, text: str) -> object:
        """The value that the text stands for; ValueError or KeyError when it stands for none."""
        if self.words:
            if text not in self.words:
                raise ValueError(text)
            return text
        if self.type is bool:
            return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]
        if self.type is int or self.type is float:
            return self._parse_number(text)
        return tuple(part.strip() for part in text.split(",") if part.strip()) if self.is_list else text

    def _parse_number(self, text: str) -> int | float:
        number = int(text) if self.type is int else float(text)
        low = number if self.minimum is None else self.minimum
        high = number if self.maximum is None else self.maximum
        if not low <= number <= high or number in (float("inf"), float("-inf")):
            raise ValueError(text)
        return number


def format_value(value: object) -> str:
    """A setting's value as it is written in a file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def list_settings() -> tuple[Setting, ...]:
    """Every setting in the order of declaration."""
    return tuple(
        Setting(section, member.name, get_type_hints(group)[member.name], member.default, **member.metadata)
        for section, group in get_type_hints(Settings).items()
        for member in fields(group)
    )


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings, and what in the files was not understood and is ignored, one line each."""

    settings: Settings
    warnings: tuple[str, ...] = ()


def load_settings(paths: Paths, config_file: Path | None = None) -> LoadedSettings:
    """Read the settings of a root: its vdsm.conf, then `vdsm.conf.d/*.conf` of etc, run and usr/lib by file name.

    Later files win; none of them need exist. `config_file` is read in the place of all of them and must exist. Raises
    InvalidSetting.
    """
    texts = []
    for file in [config_file] if config_file else [paths.config_file, *_list_drop_ins(paths.root)]:
        try:
            texts.append((str(file), file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            if config_file:
                raise InvalidSetting(str(file), "the file", "a configuration file", "none") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(str(file), "the file", "readable UTF-8 text", str(error)) from error
    return parse_settings(texts)


def _list_drop_ins(root: Path) -> list[Path]:
    folders = [root / place / "vdsm/vdsm.conf.d" for place in ("usr/lib", "run", "etc")]
    return sorted((file for folder in folders for file in folder.glob("*.conf")), key=lambda file: file.name)


def parse_settings(texts: Iterable[tuple[str, str]]) -> LoadedSettings:
    """The settings in INI texts, each with the name of its file; later ones win. Raises InvalidSetting."""
    known = {(declared.section, declared.key): declared for declared in list_settings()}
    values: dict[str, dict[str, object]] = {}
    warnings = []
    for file, text in texts:
        for section, key, value in _read_ini(file, text):
            declared = known.get((section, key))
            if declared is None:
                warnings.append(
                    f"{file}: [{section}] {key} is not known here and is ignored{_suggest(section, key, known)}"
                )
                continue
            try:
                values.setdefault(section, {})[key] = declared.parse(value)
            except (ValueError, KeyError):
                raise InvalidSetting(file, f"[{section}] {key}", declared.expected, value) from None
    groups = {section: group(**values.get(section, {})) for section, group in get_type_hints(Settings).items()}
    return LoadedSettings(Settings(**groups), tuple(warnings))


def _read_ini(file: str, text: str) -> list[tuple[str, str, str]]:
    # No section gives defaults to the others, and a percent sign is a percent sign.
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        parser.read_string(text, source=file)
    except configparser.Error as error:
        raise InvalidSetting(file, "the file", "[section] and key = value lines", str(error)) from error
    return [(section, key, value) for section in parser.sections() for key, value in parser.items(section)]


def _suggest(section: str, key: str, known: Mapping[tuple[str, str], Setting]) -> str:
    spoken = [f"[{known_section}] {known_key}" for known_section, known_key in known]
    close = difflib.get_close_matches(f"[{section}] {key}", spoken, n=1, cutoff=0.85)
    return f" (did you mean {close[0]}?)" if close else ""


def format_settings(settings: Settings) -> str:
    """All settings as a configuration file with their reasons and defaults; reading it gives the same settings."""
    lines: list[str] = []
    section = ""
    for declared in list_settings():
        if declared.section != section:
            section = declared.section
            lines += [f"\n[{section}]" if lines else f"[{section}]"]
        value = getattr(getattr(settings, section), declared.key)
        expected = "" if declared.type is str else f" ({declared.expected})"
        lines += [f"# {declared.reason}{expected}; default: {format_value(declared.default) or 'empty'}"]
        lines += [f"{declared.key} = {format_value(value)}".rstrip()]
    return "\n".join(lines) + "\n"


def settings_schema() -> dict[str, object]:
    """The published list of settings, by section and key."""
    sections: dict[str, dict[str, object]] = {}
    for declared in list_settings():
        kind = (
            "choice" if declared.words else "list" if declared.is_list else getattr(declared.type, "__name__", "text")
        )
        default = list(declared.default) if isinstance(declared.default, tuple) else declared.default
        entry: dict[str, object] = {"type": kind, "default": default, "reason": declared.reason}
        entry |= {"words": list(declared.words)} if declared.words else {}
        entry |= {} if declared.minimum is None else {"minimum": declared.minimum}
        entry |= {} if declared.maximum is None else {"maximum": declared.maximum}
        sections.setdefault(declared.section, {})[declared.key] = entry
    return {"sections": sections}
