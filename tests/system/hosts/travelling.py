"""A Debian guest with both agents on a volume that two hosts share, and what is asked of it from inside."""

import base64
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from lab import debian
from lab.commands import PartFailed, wait_for
from lab.pictures import Picture, decode_png
from lab.shared_pool import SharedPool
from tests.system.hosts.moving import UP, Mover
from tests.system.vdsmd import Volume, make_id

VM = "http://ovirt.org/vm/1.0"
AGENT = Path(__file__).parents[3] / "guest/vdsm_guest_agent.py"
CODE, VARIABLES = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
BOOT_LIMIT_S = 300.0
PATIENCE_S = 180.0
SIZE_BYTES = 1 << 30
MEMORY_MIB = 320
BRIDGE = "br-life"
# It counts in pages that shall all say the same, writes files, reads them back past the cache, and tells how often it
# went round, or what was wrong.
_LOAD = """
import os, mmap, time
n, memory = 0, bytearray(8 << 20)
count, pages = 0, memoryview(mmap.mmap(-1, 64 * 4096)).cast("Q")[::512]
wrong = ""
while not wrong and not os.path.exists("/run/stop"):
    n += 1
    memory[:] = bytes([n % 251]) * len(memory)
    for turn in range(50):
        if pages.tolist() != [count] * len(pages):
            wrong = "pages say %s, not %d" % (pages.tolist(), count)
            break
        count += 1
        for number in range(len(pages)):
            pages[number] = count
    data = (b"%015d\\n" % n) * 4096
    name = "/var/tmp/load-%d" % (n % 16)
    with open(name, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    file = os.open(name, os.O_RDONLY | os.O_DIRECT)
    room = mmap.mmap(-1, len(data))
    got = os.readv(file, [room])
    os.close(file)
    if got != len(data) or room[:] != data or memory.count(n % 251) != len(memory):
        wrong = "what was written is not there"
    room.close()
    open("/run/count.new", "w").write(str(n))
    os.rename("/run/count.new", "/run/count")
    time.sleep(0.1)
if wrong:
    open("/run/wrong", "w").write("round %d: %s" % (n, wrong))
"""
_READ_ROUNDS = """
import os, subprocess, sys
if os.path.exists("/run/wrong"):
    sys.exit(open("/run/wrong").read())
if int(open("/proc/sys/kernel/tainted").read()) & 128:  # it has died somewhere
    sys.exit(subprocess.run(["dmesg"], stdout=subprocess.PIPE, text=True).stdout[-3000:])
print(open("/run/count").read() if os.path.exists("/run/count") else 0)
"""
# When qemu before 9.0 looks which pages have changed, it does not tell its emulated processors that it did (upstream
# commit 03bfc2188f mends it): what they go on to write does not arrive in a migration. Only memory whose size is not a
# multiple of 256 KiB is looked at page by page, which is right; libvirt asks for whole MiB, so some KiB are added.
_EMULATOR = f"""#!/bin/bash
words=("${{@/size={MEMORY_MIB << 10}k/size={(MEMORY_MIB << 10) + 8}k}}")
exec qemu-system-x86_64 "${{words[@]/:{MEMORY_MIB << 20}/:{(MEMORY_MIB << 20) + 8192}}}"
"""
_FIRMWARE = """<loader readonly='yes' secure='yes' type='pflash'>{code}</loader>
<nvram template='{variables}'>{nvram}</nvram>"""
_XML = """<domain type='qemu'><name>debian</name><uuid>{vm_id}</uuid>
<metadata><v:vm xmlns:v='http://ovirt.org/vm/1.0'>
<v:device devtype='disk' name='vda'>{told}</v:device></v:vm></metadata>
<maxMemory slots='4' unit='MiB'>1024</maxMemory><memory unit='MiB'>{memory_mib}</memory><vcpu current='1'>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>{firmware}
<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=tty0 {command_line}</cmdline></os>
<features><acpi/>{features}</features>
<cpu><numa><cell id='0' cpus='0-1' memory='{memory_mib}' unit='MiB'/></numa></cpu>
<devices><emulator>{emulator}</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/><serial>root-disk</serial></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{program}'/>
<target dev='vdb' bus='virtio'/><readonly/><serial>{serial}</serial></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='scsi'/><readonly/></disk>
<controller type='scsi' model='virtio-scsi'/>
<controller type='pci' model='pcie-root'/>{ports}
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<channel type='unix'><target type='virtio' name='ovirt-guest-agent.0'/></channel>
<serial type='file'><source path='{console}' append='on'/></serial>
<graphics type='vnc' autoport='yes' passwdValidTo='1970-01-01T00:00:01'/><video><model type='vga'/></video>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<memballoon model='virtio'><stats period='1'/></memballoon>{tpm}
</devices></domain>"""
_TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
_PORTS = 16


class Traveller(Mover):
    """The VM; `chain` is that of its disk, the lowest volume first."""

    chain: list[Volume]
    secure: bool
    boot_id: str
    rounds: int

    @classmethod
    def begin(cls, here: SharedPool, there: SharedPool, *, secure: bool) -> "Traveller":
        """Put Debian on a volume, and start it on another that is on top of it."""
        base = here.create_volume(size_bytes=SIZE_BYTES)
        top = here.create_volume(Volume(image_id=base.image_id, parent_id=base.volume_id), SIZE_BYTES)
        shared = here.host.folder.parent / "shared"
        debian.get_guest().create_overlay(shared / "overlay")
        words = ("qemu-img", "convert", "-n", "-t", "none", "-O", "qcow2")
        here.host.run(*words, shared / "overlay", here.get_mounted_path(base), timeout_s=300.0)
        code = AGENT.read_bytes()
        (shared / "program").write_bytes(code + b"\n" * (-len(code) % 512))
        (shared / "emulator").write_text(_EMULATOR)
        (shared / "emulator").chmod(0o755)
        for pool in (here, there):
            pool.host.run("ip", "link", "add", BRIDGE, "type", "bridge")
            pool.host.run("ip", "link", "set", BRIDGE, "up")
            # The daemon looks for what TPMs keep below its own root.
            pool.host.run("mkdir", "-p", pool.host.root / "var/lib/libvirt/qemu/nvram")
            pool.host.run("ln", "-s", "/var/lib/libvirt/swtpm", pool.host.root / "var/lib/libvirt/swtpm")
        self = cls(here, there, make_id(), top)
        self.chain, self.secure, self.rounds = [base, top], secure, 0
        self.launch()
        return self

    def launch(self, **given: str) -> None:
        """Start it where it should be."""
        self.here.vdsmd.call("VM.create", vmID=self.vm_id, vmParams={"xml": self.format_xml(), **given})

    @property
    def shared(self) -> Path:
        return self.here.host.folder.parent / "shared"

    @property
    def nvram(self) -> Path:
        return self.here.host.root / f"var/lib/libvirt/qemu/nvram/{self.vm_id}.fd"

    @property
    def ids(self) -> dict[str, str]:
        """The disk's ids."""
        ids = {"poolID": self.here.pool_id, "domainID": self.here.domain_id}
        return {**ids, "imageID": self.chain[-1].image_id, "volumeID": self.chain[-1].volume_id}

    def format_xml(self) -> str:
        guest, is_secure = debian.get_guest(), self.secure
        return _XML.format(
            vm_id=self.vm_id,
            told="".join(f"<v:{name}>{value}</v:{name}>" for name, value in self.ids.items()),
            memory_mib=MEMORY_MIB,
            firmware=_FIRMWARE.format(code=CODE, variables=VARIABLES, nvram=self.nvram) if is_secure else "",
            features="<smm state='on'/>" if is_secure else "",
            kernel=guest.kernel,
            initrd=guest.initrd,
            command_line=escape(guest.command_line),
            emulator=self.shared / "emulator",
            disk=self.here.get_mounted_path(self.chain[-1]),
            program=self.shared / "program",
            serial=debian.PROGRAM_SERIAL,
            console=self.shared / "console",
            ports="<controller type='pci' model='pcie-root-port'/>" * _PORTS,
            tpm=_TPM if is_secure else "",
        )

    # The guest, through its agent.

    def ask(self, command: str, **arguments: object) -> Any:
        """What the agent answers."""
        text = json.dumps({"execute": command, "arguments": arguments})
        told = self.here.host.run("virsh", "-q", "qemu-agent-command", "--timeout", "60", self.vm_id, text)
        return json.loads(told)["return"]

    def _does_agent_answer(self) -> bool:
        try:
            return self.ask("guest-ping") == {}
        except PartFailed:
            return False

    def begin_inside(self, *words: str) -> int:
        """Start a program in the guest; its number there."""
        return int(self.ask("guest-exec", path=words[0], arg=words[1:], **{"capture-output": True})["pid"])

    def run_inside(self, script: str) -> str:
        """What a Python program prints in the guest, which must end well."""
        number = self.begin_inside("/usr/bin/python3", "-c", script)

        def look() -> dict[str, Any] | None:
            status: dict[str, Any] = self.ask("guest-exec-status", pid=number)
            return status if status["exited"] else None

        status = wait_for(look, "the program in the guest ends", PATIENCE_S, 0.5)
        out, complaint = (base64.b64decode(status.get(key, "")).decode() for key in ("out-data", "err-data"))
        assert status.get("exitcode") == 0, f"{script}: {complaint}"
        return out.strip()

    def read_inside(self, path: str) -> str:
        return self.run_inside(f"print(open({path!r}).read())")

    def wait_booted(self) -> dict[str, Any]:
        """Until both agents have told who it is; its figures."""

        def look() -> dict[str, Any] | None:
            stats = self.here.vdsmd.get_stats(self.vm_id)
            assert stats["status"] in ("WaitForLaunch", *UP), stats
            has_told = stats.get("guestName") == debian.HOSTNAME and "netIfaces" in stats and "disksUsage" in stats
            has_told = has_told and any(name.startswith("qemu-guest-agent-") for name in stats["appsList"])
            return stats if has_told else None

        try:
            stats: dict[str, Any] = wait_for(look, "both agents have spoken", BOOT_LIMIT_S, 0.5)
        except PartFailed as error:
            raise AssertionError((self.shared / "console").read_text(errors="replace")[-3000:]) from error
        self.boot_id = self.read_inside("/proc/sys/kernel/random/boot_id")
        return stats

    def begin_load(self) -> None:
        self.begin_inside("/usr/bin/python3", "-c", _LOAD)
        self.check()

    def end_load(self) -> None:
        self.run_inside("open('/run/stop', 'w')")
        self._read_rounds()

    def _read_rounds(self) -> int:
        """How often the load went round without a fault of its own or of the kernel."""
        return int(self.run_inside(_READ_ROUNDS))

    def check(self) -> None:
        """One host has it, as all say; the guest is still in the same boot, and its load goes on."""
        assert self.list_running() == [self.here]
        self.here.vdsmd.wait_status(self.vm_id, *UP)
        wait_for(self._does_agent_answer, "the agent answers", PATIENCE_S, 0.5)
        assert self.read_inside("/proc/sys/kernel/random/boot_id") == self.boot_id
        wait_for(lambda: self._read_rounds() > self.rounds, "the load goes on", PATIENCE_S)
        self.rounds = self._read_rounds()

    # What is seen from outside.

    def read_domain(self) -> ElementTree.Element:
        """What libvirt has."""
        return ElementTree.fromstring(self.here.host.run("virsh", "-q", "dumpxml", self.vm_id))

    def count_devices(self, kind: str) -> int:
        return len(self.read_domain().findall(f"devices/{kind}"))

    def read_chains(self) -> dict[str, list[str]]:
        """The chain of its disk, as each witness tells it."""
        [disk] = [
            one for one in self.read_domain().iterfind("devices/disk") if one.find("target[@dev='vda']") is not None
        ]
        live: list[str] = []
        layer: ElementTree.Element | None = disk
        while layer is not None and (source := layer.find("source")) is not None:
            live.append(Path(source.get("file", "")).name)
            layer = layer.find("backingStore")
        words = ("qemu-img", "info", "-U", "--backing-chain", "--output", "json")
        files = json.loads(self.here.host.run(*words, self.here.get_mounted_path(self.chain[-1])))
        return {"libvirt": live[::-1], "files": [Path(layer["filename"]).name for layer in files][::-1]}

    def check_chain(self) -> None:
        wanted = [volume.volume_id for volume in self.chain]
        for witness, told in self.read_chains().items():
            assert told == wanted, witness
        assert self.here.get_info(self.chain[-1])["voltype"] == "LEAF"

    def migrate_and_arrive(self, **how: object) -> None:
        """To the other host, which is `here` then; the guest works on its way."""
        self.migrate(**how)
        wait_for(lambda: self.get_status(self.here) == "Down", "it is gone", PATIENCE_S, 0.2)
        assert self.here.vdsmd.get_stats(self.vm_id)["exitReason"] == 4
        self.there.vdsmd.wait_status(self.vm_id, *UP)
        self.here.vdsmd.call("VM.destroy", vmID=self.vm_id)
        assert self.list_kept() == [], "what firmware and TPM keep has left this host"
        self.here, self.there = self.there, self.here
        self.check()
        assert len(self.list_kept()) == (2 if self.secure else 0)

    def list_kept(self) -> list[str]:
        """Where this host has what the VM's firmware and TPM keep."""
        places = (self.nvram.parent, "/var/lib/libvirt/swtpm")
        told = self.here.host.run(
            "bash", "-c", 'find "$@" -maxdepth 1 -name "$0*" 2>/dev/null || true', self.vm_id, *places
        )
        return told.split()

    def take_picture(self) -> Picture:
        """What its display shows."""
        shot = self.here.vdsmd.call("VM.screenshot", vmID=self.vm_id)
        assert (shot["encoding"], shot["mime_type"]) == ("base64", "image/png"), shot["mime_type"]
        return decode_png(base64.b64decode(shot["data"]))

    def make_handle(self, pool: SharedPool) -> str:
        """Two new volumes for its memory, as the verbs name them; `pool` is on the SPM."""
        volumes = [pool.create_volume(Volume(format="RAW"), size) for size in (SIZE_BYTES, 1 << 20)]
        ids = [name for volume in volumes for name in (volume.image_id, volume.volume_id)]
        return ",".join((pool.domain_id, pool.pool_id, *ids))

    def save_kept(self) -> dict[str, str]:
        """What its TPM and its NVRAM keep, as `VM.create` takes it."""
        kinds = ("tpm", "nvram") if self.secure else ()
        told = {kind: self.here.vdsmd.call("VM.getExternalData", vmID=self.vm_id, kind=kind) for kind in kinds}
        return {f"_X_{kind}data": one["_X_data"] for kind, one in told.items()}

    def read_secrets(self) -> dict[str, str]:
        """What firmware and TPM keep, read inside."""
        return dict(json.loads(self.run_inside(_READ_SECRETS))) if self.secure else {}

    def write_secrets(self) -> None:
        """Let the firmware keep a variable, and put a mark into a register of the TPM."""
        if self.secure:
            self.run_inside(_WRITE_SECRETS)

    def wait_down(self) -> dict[str, Any]:
        wait_for(lambda: self.get_status(self.here) == "Down", "it is down", PATIENCE_S, 0.2)
        return self.here.vdsmd.get_stats(self.vm_id)


_EFI = "/sys/firmware/efi/efivars"
_MARK = f"{_EFI}/WholeLife-6b1c3a52-0d5b-4c5e-9a53-3d4c6f3f8a10"
_READ_SECRETS = f"""
import json, os
read = lambda path: open(path, "rb").read().hex() if os.path.exists(path) else ""
print(json.dumps({{
    "secure boot": read("{_EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"),
    "mark": read("{_MARK}"),
    "firmware": open("/sys/class/tpm/tpm0/pcr-sha256/0").read().strip(),
    "register": open("/sys/class/tpm/tpm0/pcr-sha256/16").read().strip(),
}}))
"""
# TPM2_PCR_Extend of register 16, with an empty password.
_WRITE_SECRETS = f"""
import os, struct
file = os.open("{_MARK}", os.O_WRONLY | os.O_CREAT)
os.write(file, struct.pack("<I", 7) + b"kept")
os.close(file)
tpm = os.open("/dev/tpm0", os.O_RDWR)
session = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
body = struct.pack(">II", 16, len(session)) + session + struct.pack(">IH", 1, 0x000B) + b"whole life".ljust(32)
os.write(tpm, struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body)
assert os.read(tpm, 4096)[6:10] == bytes(4)
"""
