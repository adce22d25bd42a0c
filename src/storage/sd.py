"""`storage.sd` as scripts of 2011 import it: numbers and names of storage domains (facts §1.18).

Scripts pass the numbers on to the daemon, which has tables of its own (`vdsm.api.storage_types`); a test holds the two
together. No storage code is loaded.
"""

import os

UNKNOWN_DOMAIN, NFS_DOMAIN, FCP_DOMAIN, ISCSI_DOMAIN = range(4)
LOCALFS_DOMAIN, CIFS_DOMAIN, POSIXFS_DOMAIN, GLUSTERFS_DOMAIN = range(4, 8)
SHAREDFS_DOMAIN = POSIXFS_DOMAIN

BLOCK_DOMAIN_TYPES = [FCP_DOMAIN, ISCSI_DOMAIN]
FILE_DOMAIN_TYPES = [NFS_DOMAIN, LOCALFS_DOMAIN, CIFS_DOMAIN, POSIXFS_DOMAIN, GLUSTERFS_DOMAIN]
DOMAIN_TYPES = dict(enumerate("UNKNOWN NFS FCP ISCSI LOCALFS CIFS POSIXFS GLUSTERFS".split()))

DATA_DOMAIN, ISO_DOMAIN, BACKUP_DOMAIN = 1, 2, 3
DOMAIN_CLASSES = {DATA_DOMAIN: "Data", ISO_DOMAIN: "Iso", BACKUP_DOMAIN: "Backup"}

DOM_UNKNOWN_STATUS, DOM_ATTACHED_STATUS, DOM_UNATTACHED_STATUS = "Unknown", "Attached", "Unattached"
DOM_ACTIVE_STATUS = "Active"
DOMAIN_STATUSES = [DOM_UNKNOWN_STATUS, DOM_ATTACHED_STATUS, DOM_UNATTACHED_STATUS, DOM_ACTIVE_STATUS]
DEPRECATED_DOM_INACTIVE_STATUS = "Inactive"
DEPRECATED_STATUSES = {DEPRECATED_DOM_INACTIVE_STATUS: DOM_ATTACHED_STATUS}

MASTER_DOMAIN, REGULAR_DOMAIN = "Master", "Regular"

DOMAIN_VERSIONS = (0, 2, 3, 4, 5)

BLANK_UUID = "00000000-0000-0000-0000-000000000000"
ISO_IMAGE_UUID = "11111111-1111-1111-1111-111111111111"

storage_repository = os.path.join(os.environ.get("VDSM_ROOT") or "/", "rhev/data-center")
mountBasePath = os.path.join(storage_repository, "mnt")
DOMAIN_MNT_POINT, DOMAIN_META_DATA, DOMAIN_IMAGES = "mnt", "dom_md", "images"
GLUSTERSD_DIR, BLOCKSD_DIR = "glusterSD", "blockSD"
MASTER_FS_DIR, VMS_DIR, TASKS_DIR = "master", "vms", "tasks"

METADATA, LEASES, IDS, INBOX, OUTBOX = "metadata", "leases", "ids", "inbox", "outbox"
SPECIAL_VOLUME_SIZES_MIB = {LEASES: 2048, IDS: 8, INBOX: 16, OUTBOX: 16}
METASIZE, LEASE_BLOCKS, MAX_DOMAIN_DESCRIPTION_SIZE = 512, 2048, 50

REMOVED_IMAGE_PREFIX = "_remove_me_"
ZEROED_IMAGE_PREFIX = REMOVED_IMAGE_PREFIX + "ZERO_"

DMDK_VERSION, DMDK_SDUUID, DMDK_TYPE, DMDK_ROLE = "VERSION", "SDUUID", "TYPE", "ROLE"
DMDK_DESCRIPTION, DMDK_CLASS, DMDK_POOLS = "DESCRIPTION", "CLASS", "POOL_UUID"
DMDK_LOCK_POLICY, DMDK_LOCK_RENEWAL_INTERVAL_SEC = "LOCKPOLICY", "LOCKRENEWALINTERVALSEC"
DMDK_LEASE_TIME_SEC, DMDK_IO_OP_TIMEOUT_SEC, DMDK_LEASE_RETRIES = "LEASETIMESEC", "IOOPTIMEOUTSEC", "LEASERETRIES"

DEFAULT_LEASE_PARAMS: dict[str, str | int] = {
    DMDK_LOCK_POLICY: "ON",
    DMDK_LEASE_RETRIES: 3,
    DMDK_LEASE_TIME_SEC: 60,
    DMDK_LOCK_RENEWAL_INTERVAL_SEC: 5,
    DMDK_IO_OP_TIMEOUT_SEC: 10,
}


def type2name(domType: int) -> str:
    """The text of a domain type's number; KeyError for any other."""
    return DOMAIN_TYPES[domType]


def name2type(name: str) -> int:
    """The number of a domain type's text, in whatever case; KeyError for any other."""
    return {text: number for number, text in DOMAIN_TYPES.items()}[name.upper()]


def class2name(domClass: int) -> str:
    """The text of a domain class's number; KeyError for any other."""
    return DOMAIN_CLASSES[domClass]


def name2class(name: str) -> int:
    """The number of a domain class's text; KeyError for any other."""
    return {text: number for number, text in DOMAIN_CLASSES.items()}[name]


def storageType(t: int | str) -> str:
    """The text of a domain type given as number, as number in text, or as text; KeyError for none of these."""
    text = str(t)
    return type2name(int(text)) if text.isdecimal() else type2name(name2type(text))


def validateSDStatus(status: str) -> None:
    """ValueError when a pool's map cannot hold such a domain status; case does not count."""
    if status.capitalize() not in DOMAIN_STATUSES:
        raise ValueError(f"invalid storage domain status: {status!r}")


def validateDomainVersion(version: int) -> None:
    """ValueError when there is no such domain version."""
    if int(version) not in DOMAIN_VERSIONS:
        raise ValueError(f"unsupported storage domain version: {version!r}")


def packLeaseParams(
    lockRenewalIntervalSec: int | None, leaseTimeSec: int | None, ioOpTimeoutSec: int | None, leaseRetries: int | None
) -> dict[str, str | int]:
    """Lease parameters by metadata key; the defaults, unless all four are given."""
    values = (lockRenewalIntervalSec, leaseTimeSec, ioOpTimeoutSec, leaseRetries)
    given = [value for value in values if value is not None]
    keys = (DMDK_LOCK_RENEWAL_INTERVAL_SEC, DMDK_LEASE_TIME_SEC, DMDK_IO_OP_TIMEOUT_SEC, DMDK_LEASE_RETRIES)
    return dict(zip(keys, given, strict=True)) if len(given) == len(keys) else dict(DEFAULT_LEASE_PARAMS)
