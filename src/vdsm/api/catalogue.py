"""The whole surface in one place: every group of verbs, in the order in which documents list them."""

from vdsm.api.backup import BackupApi
from vdsm.api.declare import Verb, list_verbs
from vdsm.api.devices import DeviceApi
from vdsm.api.disks import DiskApi
from vdsm.api.firmware import FirmwareApi
from vdsm.api.guest import GuestApi
from vdsm.api.host import HostApi, MonitorApi, StorageListApi, VmListApi
from vdsm.api.migration import MigrationApi
from vdsm.api.sdm import SdmApi, SealApi
from vdsm.api.secrets import SecretApi
from vdsm.api.storage import DomainApi, ImageApi, PoolApi, VolumeApi
from vdsm.api.storage_leases import LeaseApi
from vdsm.api.storage_life import DefinitionApi, DomainLifeApi, PoolLifeApi
from vdsm.api.task import TaskApi
from vdsm.api.transfers import NbdApi, TicketApi, TransferApi
from vdsm.api.tuning import TuningApi
from vdsm.api.updates import UpdateApi
from vdsm.api.vm import VmApi

GROUPS: tuple[type, ...] = (
    HostApi,
    VmListApi,
    StorageListApi,
    MonitorApi,
    VmApi,
    DeviceApi,
    UpdateApi,
    DiskApi,
    TuningApi,
    GuestApi,
    MigrationApi,
    BackupApi,
    SecretApi,
    FirmwareApi,
    PoolApi,
    PoolLifeApi,
    DefinitionApi,
    DomainApi,
    DomainLifeApi,
    VolumeApi,
    ImageApi,
    TransferApi,
    TicketApi,
    NbdApi,
    LeaseApi,
    SdmApi,
    SealApi,
    TaskApi,
)


def list_all_verbs() -> tuple[Verb, ...]:
    """Every declared verb."""
    return tuple(verb for group in GROUPS for verb in list_verbs(group))
