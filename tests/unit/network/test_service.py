"""The service asks the kernel anew each time."""

import pytest
from msgspec.structs import replace

from vdsm.network.model import NetworkRecord
from vdsm.network.ports import KernelSilent
from vdsm.network.service import NetworkService
from vdsm.testing.clock import VirtualClock


class StubKernel:
    def __init__(self, state) -> None:
        self.state = state

    async def read_state(self):
        if self.state is None:
            raise KernelSilent("no answer")
        return self.state


class StubRecords:
    async def list_networks(self):
        return [NetworkRecord("ovirtmgmt", nic="eth0")]


@pytest.fixture
def kernel(state) -> StubKernel:
    return StubKernel(state)


@pytest.fixture
def service(kernel) -> NetworkService:
    return NetworkService(kernel, StubRecords(), VirtualClock())


async def test_every_answer_is_fresh(service, kernel, state) -> None:
    assert set((await service.get_capabilities()).networks) == {"ovirtmgmt"}
    kernel.state = replace(state, links=())
    assert not (await service.get_capabilities()).networks
    assert (await service.get_statistics()).network == {}


async def test_one_time_for_a_whole_report(service) -> None:
    found = await service.get_statistics()
    assert {device.sample_time_s for device in found.network.values()} == {1_700_000_000.0}


async def test_the_client_came_in_through_a_device(service) -> None:
    assert await service.find_interface("192.0.2.10") == "ovirtmgmt"


async def test_a_silent_kernel_is_a_failure_not_an_empty_answer(service, kernel) -> None:
    kernel.state = None
    for ask in (service.get_capabilities, service.get_statistics):
        with pytest.raises(KernelSilent):
            await ask()
