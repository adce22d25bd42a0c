"""Limits of running VMs: what a request comes to, and what becomes of it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml
from tests.unit.virt.world import World, create, settle
from vdsm.api.errors import (
    BalloonFailed,
    CpuTuneFailed,
    IoTuneFailed,
    MissingParameter,
    NoSuchVm,
    VmIsDown,
    VmPolicyFailed,
    VmRequestFailed,
    WrongState,
)
from vdsm.api.tuning import DiskPolicy, DiskTune, IoLimits, PolicyChange, TuningApi
from vdsm.core.errors import NodeError, NotReady
from vdsm.testing import hypervisor_xml
from vdsm.virt.domain import DomainView, parse_domain
from vdsm.virt.ports import HypervisorDown, HypervisorRefused, HypervisorTimeout, NoSuchDomain
from vdsm.virt.service import VmService
from vdsm.virt.tuning import TuningService, check_cpu_limit, plan_io_tune, plan_policy

SECOND = {**VOLUME, "image_id": "55555555-0000-4000-8000-000000000005", "index": 1}
BALLOON = {"type": "balloon", "device": "memballoon", "parameters": {"model": "virtio"}}
CDROM = {"type": "disk", "device": "cdrom", "interface": "ide", "index": 2, "path": "/cd.iso"}


def fits(service: TuningService) -> TuningApi:
    """For the type checker: the service implements the group."""
    return service


async def make(service: VmService, **values: object) -> TuningService:
    """A VM with two disks of a storage domain, one from elsewhere, and a balloon."""
    disks = [
        {"type": "disk", "device": "disk", "interface": "ide", **drive} for drive in ({**VOLUME, "index": 0}, SECOND)
    ]
    await create(service, devices=[*disks, BALLOON, CDROM], **values)
    return service.tuning


REQUESTS: dict[str, Callable[[TuningService], Awaitable[object]]] = {
    "balloon": lambda tuning: tuning.set_balloon_target(VM_ID, 32768),
    "quota": lambda tuning: tuning.set_cpu_quota(VM_ID, 50_000),
    "period": lambda tuning: tuning.set_cpu_period(VM_ID, 50_000),
    "set I/O": lambda tuning: tuning.set_io_tune(VM_ID, [DiskTune(name="hda", limits=IoLimits(read_bytes_per_s=5))]),
    "get I/O": lambda tuning: tuning.get_io_tune(VM_ID),
    "policy": lambda tuning: tuning.update_policy(VM_ID, PolicyChange(cpu_limit_percent=50)),
    "reboot": lambda tuning: tuning.set_destroy_on_reboot(VM_ID),
}
CALLS = {"balloon": "set_memory", "quota": "set_cpu_tune", "period": "set_cpu_tune", "set I/O": "set_io_tune"}
CALLS |= {"get I/O": "get_domain", "policy": "set_metadata", "reboot": "set_metadata"}
FAILURES: dict[str, type[NodeError]] = {"balloon": BalloonFailed, "quota": CpuTuneFailed, "period": CpuTuneFailed}
FAILURES |= {"set I/O": IoTuneFailed, "get I/O": IoTuneFailed, "policy": VmPolicyFailed}


@pytest.mark.parametrize("name", REQUESTS)
async def test_of_vms_that_are_not_there_or_down(name: str) -> None:
    world = World()
    service = world.make()
    with pytest.raises(NotReady):
        await REQUESTS[name](service.tuning)
    async with world.ready() as service:
        with pytest.raises(NoSuchVm):
            await REQUESTS[name](service.tuning)
        tuning = await make(service)
        world.hypervisor.end_guest(VM_ID)
        await settle()
        world.hypervisor.calls.clear()
        with pytest.raises(BalloonFailed if name == "balloon" else VmIsDown):
            await REQUESTS[name](tuning)
        assert world.hypervisor.calls == []


@pytest.mark.parametrize("name", REQUESTS)
async def test_while_the_vm_starts(name: str) -> None:
    world = World()
    world.images.may_go_on.clear()
    async with world.ready() as service:
        creation = asyncio.create_task(make(service))
        await settle()
        with pytest.raises(BalloonFailed if name == "balloon" else WrongState):
            await REQUESTS[name](service.tuning)
        world.images.may_go_on.set()
        await creation


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_hypervisor_that_refuses_is_quiet_or_away_changes_nothing(name: str) -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service)
        before = world.record()
        own = FAILURES.get(name)
        for error in (HypervisorRefused("no, never"), HypervisorTimeout(VM_ID, "call", 60.0), HypervisorDown("away")):
            world.hypervisor.fail_next(CALLS[name], error)
            is_own = own is not None and not isinstance(error, HypervisorDown)
            with pytest.raises(own if is_own and own is not None else type(error), match=str(error)):
                await REQUESTS[name](tuning)
            stats = await service.get_stats(VM_ID)
            assert stats.monitor_response == (-1 if own and not isinstance(error, HypervisorRefused) else 0)
        world.hypervisor.fail_next(CALLS[name], NoSuchDomain(VM_ID))
        with pytest.raises(NoSuchDomain):
            await REQUESTS[name](tuning)
        assert world.record() == before
        await REQUESTS[name](tuning)  # and it works when nothing is in its way


async def test_the_balloon_follows_and_its_target_outlives_the_daemon() -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service)
        await tuning.set_balloon_target(VM_ID, 40960)
        assert world.stored().balloon_target_kib == 40960
    async with world.ready() as service:
        await service.sample()
        balloon = (await service.get_stats(VM_ID)).balloon
        assert balloon is not UNSET
        assert (balloon.target_kib, balloon.current_kib, balloon.maximum_kib) == (40960, 40960, 65536)
        for target_kib in (0, 65537, 2**63 - 1):
            with pytest.raises(BalloonFailed, match="memory"):
                await service.tuning.set_balloon_target(VM_ID, target_kib)
        assert world.stored().balloon_target_kib == 40960


@pytest.mark.parametrize("without", ["balloon", "leave"])
async def test_without_a_balloon_or_leave_nothing_happens(without: str) -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service) if without == "leave" else service.tuning
        if without == "balloon":
            await create(service)
        vm = service._shared.vms[VM_ID]
        if without == "leave":
            vm.metadata = vm.metadata.changed(ballooningEnabled=False)
        world.hypervisor.calls.clear()
        await tuning.set_balloon_target(VM_ID, 1024)
        assert world.hypervisor.calls == []


async def test_processor_limits_show_in_the_figures() -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service)
        stats = await service.get_stats(VM_ID)
        assert (stats.cpu_quota_us, stats.cpu_period_us, stats.cpu_limit_percent) == (UNSET, UNSET, UNSET)
        await tuning.set_cpu_quota(VM_ID, 50_000)
        await tuning.set_cpu_period(VM_ID, 200_000)
        stats = await service.get_stats(VM_ID)
        assert (stats.cpu_quota_us, stats.cpu_period_us) == (50_000, 200_000)
        await tuning.set_cpu_quota(VM_ID, -1)
        assert (await service.get_stats(VM_ID)).cpu_quota_us == -1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("vcpu_quota", value) for value in (0, 1, 999, -2, 2**44, 2**63 - 1, -(2**63))),
        *(("vcpu_period", value) for value in (0, -1, 999, 1_000_001, 2**63 - 1)),
    ],
)
def test_processor_limits_that_no_kernel_takes(name: str, value: int) -> None:
    with pytest.raises(CpuTuneFailed, match="must be between"):
        check_cpu_limit(name, value)


async def test_what_others_tune_is_seen_with_the_next_sample() -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service)
        await world.hypervisor.set_io_tune(VM_ID, "hdb", {"total_iops_sec": 7})
        await settle()
        await service.sample()
        await settle()
        [first, second] = (await tuning.list_io_policies())[VM_ID].current
        assert (first.limits.total_operations_per_s, second.limits.total_operations_per_s) == (0, 7)


async def test_limits_of_disks_are_merged_and_told() -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service)
        paths = [disk.path for disk in await tuning.get_io_tune(VM_ID)]
        await tuning.set_io_tune(
            VM_ID,
            [
                DiskTune(name="hda", limits=IoLimits(read_bytes_per_s=5, write_bytes_per_s=6)),
                DiskTune(path=paths[1], limits=IoLimits(total_operations_per_s=7)),
                DiskTune(name="hda", path="of another", limits=IoLimits(write_bytes_per_s=8)),
            ],
        )
        none = dict.fromkeys(IoLimits.__struct_fields__, 0)
        told = [
            DiskTune(
                name="hda", path=paths[0], limits=IoLimits(**none | {"read_bytes_per_s": 5, "write_bytes_per_s": 8})
            ),
            DiskTune(name="hdb", path=paths[1], limits=IoLimits(**none | {"total_operations_per_s": 7})),
        ]
        assert (await tuning.list_io_policies())[VM_ID].current == told == await tuning.get_io_tune(VM_ID)


async def test_two_at_once_keep_what_the_other_set() -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service)
        wishes = (IoLimits(read_bytes_per_s=1), IoLimits(write_bytes_per_s=2), IoLimits(total_operations_per_s=3))
        await asyncio.gather(*(tuning.set_io_tune(VM_ID, [DiskTune(name="hda", limits=wish)]) for wish in wishes))
        limits = (await tuning.get_io_tune(VM_ID))[0].limits
        assert (limits.read_bytes_per_s, limits.write_bytes_per_s, limits.total_operations_per_s) == (1, 2, 3)
        changes = [PolicyChange(cpu_limit_percent=5), PolicyChange(disks=[DiskPolicy(name="hda", maximum=wishes[0])])]
        await asyncio.gather(*(tuning.update_policy(VM_ID, change) for change in changes))
        assert (await service.get_stats(VM_ID)).cpu_limit_percent == 5
        assert len(await tuning.get_io_policy(VM_ID)) == 1


async def test_all_disks_or_none() -> None:
    world = World()
    async with world.ready() as service:
        tuning = await make(service)
        await tuning.set_io_tune(VM_ID, [DiskTune(name="hda", limits=IoLimits(read_bytes_per_s=5))])
        before = await tuning.get_io_tune(VM_ID)
        wish = [DiskTune(name=name, limits=IoLimits(read_bytes_per_s=9)) for name in ("hda", "hdb")]
        set_io_tune, count = world.hypervisor.set_io_tune, 0

        async def fail_second(vm_id: str, target: str, limits: dict[str, int]) -> None:
            nonlocal count
            count += 1
            if count == 2:
                raise HypervisorRefused("not this one")
            await set_io_tune(vm_id, target, limits)

        world.hypervisor.set_io_tune = fail_second  # type: ignore[method-assign, assignment]
        with pytest.raises(IoTuneFailed, match="not this one"):
            await tuning.set_io_tune(VM_ID, wish)
        assert (count, await tuning.get_io_tune(VM_ID)) == (3, before)


def view_of(policy: str = "") -> DomainView:
    """Two disks, one of them of a storage domain and with a limit."""
    ids = "".join(
        f"<o:{name}>{VOLUME[ours]}</o:{name}>"
        for name, ours in zip(("poolID", "domainID", "imageID", "volumeID"), VOLUME, strict=True)
    )
    disk = "<disk type='file'><source file='/{0}'/><target dev='{0}'/><iotune>{1}</iotune></disk>"
    devices = disk.format("vda", "<total_bytes_sec>5</total_bytes_sec>") + disk.format("vdb", "")
    xml = domain_xml(metadata=f"<o:device devtype='disk' name='vda'>{ids}</o:device>", devices=devices)
    qos = f"<t:qos xmlns:t='http://ovirt.org/vm/tune/1.0'>{policy}</t:qos>"
    return parse_domain(xml.replace("<metadata>", f"<metadata>{qos}"))


@pytest.mark.parametrize(
    "tune",
    [
        DiskTune(limits=IoLimits()),
        DiskTune(name="vdb", limits=IoLimits()),  # on no storage domain
        DiskTune(name="", limits=IoLimits()),
        DiskTune(path="", limits=IoLimits()),
        DiskTune(path="/vdb", limits=IoLimits()),
        DiskTune(name="vda", limits=IoLimits(read_bytes_per_s=1)),  # beside the total that there is
        DiskTune(name="vda", limits=IoLimits(total_operations_per_s=1, write_operations_per_s=1)),
    ],
)
def test_disks_and_limits_that_cannot_be(tune: DiskTune) -> None:
    with pytest.raises(IoTuneFailed):
        plan_io_tune(view_of(), [DiskTune(name="vda", limits=IoLimits()), tune])


def test_a_total_is_replaced_by_its_parts() -> None:
    wish = IoLimits(total_bytes_per_s=0, read_bytes_per_s=1)
    [change] = plan_io_tune(view_of(), [DiskTune(name="vda", limits=wish)])
    assert {name: value for name, value in change.before.items() if value} == {"total_bytes_sec": 5}
    assert {name: value for name, value in change.after.items() if value} == {"read_bytes_sec": 1}


def test_a_policy_keeps_what_is_not_named() -> None:
    view = view_of(
        "<t:vcpuLimit>70</t:vcpuLimit><t:ioTune>"
        "<t:device name='gone'/><t:device path='/vda'><t:maximum><t:read_iops_sec>1</t:read_iops_sec></t:maximum>"
        "</t:device></t:ioTune>"
    )
    by_ids = DiskPolicy(**VOLUME, maximum=IoLimits(write_operations_per_s=2))
    by_name = DiskPolicy(name="vdb", guaranteed=IoLimits(read_bytes_per_s=3))
    policy = plan_policy(view, PolicyChange(disks=[by_ids, by_name]))
    assert policy.cpu_limit_percent == 70
    assert policy.disks == (
        DiskPolicy(name="gone"),
        DiskPolicy(name="vda", path="/vda", maximum=IoLimits(read_operations_per_s=1, write_operations_per_s=2)),
        DiskPolicy(name="vdb", path="/vdb", guaranteed=IoLimits(read_bytes_per_s=3)),
    )
    assert plan_policy(view, PolicyChange(cpu_limit_percent=0)).disks == view.policy.disks


@pytest.mark.parametrize(
    "wanted",
    [
        DiskPolicy(),
        DiskPolicy(name="vdz"),
        DiskPolicy(path=""),
        DiskPolicy(**VOLUME, name="vdz"),
        DiskPolicy(**{**VOLUME, "pool_id": UNSET}),
        DiskPolicy(**{**VOLUME, "volume_id": VOLUME["image_id"]}),
    ],
)
def test_a_policy_for_no_disk(wanted: DiskPolicy) -> None:
    with pytest.raises(VmPolicyFailed, match="no such disk"):
        plan_policy(view_of(), PolicyChange(disks=[wanted]))


async def test_a_policy_outlives_the_daemon_and_is_told() -> None:
    world = World()
    maximum = IoLimits(total_bytes_per_s=10**6)
    async with world.ready() as service:
        tuning = await make(service)
        with pytest.raises(MissingParameter):
            await tuning.update_policy(VM_ID, PolicyChange())
        await tuning.update_policy(
            VM_ID, PolicyChange(cpu_limit_percent=50, disks=[DiskPolicy(name="hda", maximum=maximum)])
        )
        assert world.stored().owner == "/"
    async with world.ready() as service:
        assert (await service.get_stats(VM_ID)).cpu_limit_percent == 50
        [disk] = await service.tuning.get_io_policy(VM_ID)
        assert (disk.name, disk.maximum) == ("hda", maximum)
        assert (await service.tuning.list_io_policies())[VM_ID].policy == [disk]
        world.hypervisor.end_guest(VM_ID)
        await settle()
        assert await service.tuning.list_io_policies() == {}
        assert await service.tuning.get_io_policy(VM_ID) == [disk]


async def test_the_next_reboot_is_the_end_also_for_the_next_daemon() -> None:
    world = World()
    async with world.ready() as service:
        await make(service)
        world.hypervisor.fail_next("set_metadata", HypervisorRefused("no"))
        with pytest.raises(HypervisorRefused):
            await service.tuning.set_destroy_on_reboot(VM_ID)
        assert not service._shared.vms[VM_ID].metadata.destroy_on_reboot
        await service.tuning.set_destroy_on_reboot(VM_ID)
        assert world.stored().destroy_on_reboot
    async with world.ready() as service:
        await world.hypervisor.reset(VM_ID)
        await settle()
        assert (await service.get_stats(VM_ID)).exit_reason == 13


async def test_of_somebody_elses_vm_the_metadata_is_left_alone() -> None:
    world = World()
    await world.hypervisor.define(domain_xml(metadata=None))
    await world.hypervisor.start(VM_ID, paused=False)
    async with world.ready() as service:
        before = hypervisor_xml.format_xml(world.hypervisor.domains[VM_ID].xml)
        with pytest.raises(VmPolicyFailed, match="somebody else"):
            await service.tuning.update_policy(VM_ID, PolicyChange(cpu_limit_percent=50))
        with pytest.raises(VmRequestFailed):
            await service.tuning.set_destroy_on_reboot(VM_ID)
        assert hypervisor_xml.format_xml(world.hypervisor.domains[VM_ID].xml) == before


async def test_definitions_are_told_of_all_or_none() -> None:
    world = World()
    async with world.ready() as service:
        await make(service, display="vnc")
        assert await service.list_definitions([]) == {}
        told = await service.list_definitions([VM_ID])
        assert told == {VM_ID: service._shared.vms[VM_ID].xml}
        assert parse_domain(told[VM_ID]).graphics
        with pytest.raises(NoSuchVm):
            await service.list_definitions([VM_ID, "unknown"])
