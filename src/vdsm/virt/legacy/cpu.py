"""The processors of the dictionary form (facts §2.2): count, model, topology, NUMA, pinning and shares."""

from xml.etree.ElementTree import Element

from msgspec import UNSET

from vdsm.api.vm import GuestNumaNode, VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.virt.elements import element
from vdsm.virt.legacy.values import at_least, given

_SHARES_PER_NICE = 51


def build_processors(parameters: VmParameters) -> list[Element]:
    """`<vcpu>`, `<iothreads>`, `<cputune>`, `<numatune>` and `<cpu>`, as far as asked for; raises InvalidArgument."""
    count = at_least("smp", given(parameters.cpus, 1), 1)
    maximum = at_least("maxVCpus", given(parameters.maximum_cpus, count), count)
    io_threads = at_least("numOfIoThreads", given(parameters.io_threads, 0), 0)
    made = [element("vcpu", text=str(maximum), current=count)]
    if io_threads:
        made.append(element("iothreads", text=str(io_threads)))
    return [*made, *_tuning(parameters), *_numa_tuning(parameters), _cpu(parameters, maximum)]


def _tuning(parameters: VmParameters) -> list[Element]:
    """No shares when nobody asked: the default share of `nice` 0 is as good as the kernel's, and needs no cgroup."""
    shares = given(parameters.cpu_shares, 0)
    if not shares and parameters.nice is not UNSET:
        shares = (20 - min(max(parameters.nice, 0), 19)) * _SHARES_PER_NICE
    made = [element("shares", text=str(shares))] if shares else []
    made += [element("vcpupin", vcpu=cpu, cpuset=places) for cpu, places in given(parameters.cpu_pinning, {}).items()]
    return [element("cputune", *made)] if made else []


def _numa_tuning(parameters: VmParameters) -> list[Element]:
    tune = parameters.numa_tune
    if tune is UNSET:
        return []
    cells = {node.guest_node: node.nodeset for node in tune.memory_nodes}
    nodes = [element("memnode", cellid=cell, mode=tune.mode, nodeset=hosts) for cell, hosts in cells.items()]
    return [element("numatune", element("memory", mode=tune.mode, nodeset=tune.nodeset), *nodes)]


def _cpu(parameters: VmParameters, maximum: int) -> Element:
    cores = at_least("smpCoresPerSocket", given(parameters.cores_per_socket, 1), 1)
    threads = at_least("smpThreadsPerCore", given(parameters.threads_per_core, 1), 1)
    if maximum % (cores * threads):
        raise InvalidArgument("maxVCpus", f"{maximum} is no multiple of {cores} cores with {threads} threads each")
    made = _model(given(parameters.cpu_type, "") or "qemu64")
    made.append(element("topology", sockets=maximum // cores // threads, cores=cores, threads=threads))
    nodes = given(parameters.guest_numa_nodes, [])
    size_mib = given(parameters.memory_mib, 0)
    if not nodes and given(parameters.maximum_memory_mib, 0) > size_mib:
        # libvirt plugs memory into NUMA cells only.
        nodes = [GuestNumaNode(index=0, cpus=f"0-{maximum - 1}", memory_mib=size_mib)]
    if nodes:
        made.append(element("numa", *(_cell(node) for node in sorted(nodes, key=lambda node: node.index))))
    return made


def _cell(node: GuestNumaNode) -> Element:
    return element("cell", id=node.index, cpus=node.cpus, memory=node.memory_mib * 1024, unit="KiB")


def _model(text: str) -> Element:
    model, *flags = text.split(",")
    if model in ("hostPassthrough", "hostModel"):
        return element("cpu", mode="host-passthrough" if model == "hostPassthrough" else "host-model")
    if model == "qemu64" and "+svm" not in flags:
        flags = [flag for flag in flags if flag != "-svm"] + ["-svm"]
    features = [
        element("feature", name=flag[1:].replace("sse4_", "sse4."), policy="require" if flag[0] == "+" else "disable")
        for flag in flags
        if flag[:1] in ("+", "-")
    ]
    return element("cpu", element("model", text=model), *features, match="exact")
