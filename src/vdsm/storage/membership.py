"""Being one of the hosts that share a pool's domains, from connecting the pool on; leases themselves are elsewhere."""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from vdsm.core.errors import NodeError
from vdsm.storage.domain import Domains
from vdsm.storage.model import DomainClass, DomainStatus

log = logging.getLogger(__name__)


def join_hosts(domains: Domains, statuses: Mapping[str, DomainStatus], host_id: int) -> None:
    """Begin to join the hosts of all active domains that hold disks; what fails is logged."""
    for domain_id, status in statuses.items():
        if status is DomainStatus.ACTIVE:
            try:
                domain = domains.get(domain_id)
                if domain.metadata.domain_class is not DomainClass.ISO:
                    domain.backend.domain.join_hosts(host_id, wait=False)
            except NodeError as error:
                log.warning("Host %d is not among those of domain %s: %s", host_id, domain_id, error)


def leave_hosts(domains: Domains, domain_ids: Iterable[str], host_id: int) -> None:
    """Leave the hosts of these domains, all at once as each takes some seconds; what fails is logged."""

    def leave(domain_id: str) -> None:
        try:
            domains.get_backend(domain_id).domain.leave_hosts(host_id)
        except NodeError as error:
            log.warning("Host %d stays among those of domain %s: %s", host_id, domain_id, error)

    known = list(domain_ids)
    with ThreadPoolExecutor(max(1, len(known))) as threads:
        list(threads.map(leave, known))
