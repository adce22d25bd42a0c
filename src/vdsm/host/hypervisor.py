"""libvirt's capabilities, read: machine types, processor models, clock; asking for them is left to the service."""

from functools import lru_cache
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring
from msgspec import Struct


class HostXml(Struct, frozen=True):
    """What `virsh capabilities` says of the host."""

    architecture: str
    machines: tuple[str, ...]
    tsc_hz: str
    tsc_scaling: bool


class DomainXml(Struct, frozen=True):
    """What `virsh domcapabilities` says of processors: the models that run here, all that are known, features."""

    usable_models: frozenset[str]
    models: frozenset[str]
    features: frozenset[str]


class HypervisorFacts(Struct, frozen=True):
    """All that libvirt has said; versions are major * 1000000 + minor * 1000 + release."""

    host: HostXml
    domain: DomainXml
    libvirt: int
    qemu: int


@lru_cache(maxsize=2)
def parse_host_xml(xml: str) -> HostXml:
    """Parse libvirt's host capabilities; machine types are those of the host's own architecture."""
    root: Element = fromstring(xml)
    architecture = root.findtext("host/cpu/arch", "")
    machines = [
        machine.text
        for guest in root.findall("guest")
        if guest.findtext("os_type") == "hvm"
        for arch in guest.findall("arch")
        if arch.get("name") == architecture
        for machine in arch.iter("machine")
        if machine.text
    ]
    counter = root.find("host/cpu/counter[@name='tsc']")
    return HostXml(
        architecture=architecture,
        machines=tuple(dict.fromkeys(machines)),
        tsc_hz=counter.get("frequency", "") if counter is not None else "",
        tsc_scaling=counter is not None and counter.get("scaling") == "yes",
    )


@lru_cache(maxsize=4)
def parse_domain_xml(xml: str) -> DomainXml:
    """Parse libvirt's domain capabilities of one domain type."""
    cpu = fromstring(xml).find("cpu")
    if cpu is None:
        return DomainXml(frozenset(), frozenset(), frozenset())
    models = cpu.findall("mode[@name='custom']/model")
    features = cpu.findall("mode[@name='host-model']/feature")
    return DomainXml(
        usable_models=frozenset(model.text or "" for model in models if model.get("usable") == "yes"),
        models=frozenset(model.text or "" for model in models),
        features=frozenset(feature.get("name", "") for feature in features if feature.get("policy") == "require"),
    )
