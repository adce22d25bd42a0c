"""Processors: count, model, topology, NUMA cells, pinning and shares."""

from xml.etree.ElementTree import Element

from vdsm.virt.elements import element
from vdsm.virt.spec import Cpu, NumaCell, VmSpec


def build(spec: VmSpec) -> list[Element]:
    """`<vcpu>`, `<iothreads>`, `<cputune>`, `<numatune>` and `<cpu>`, as far as the specification asks for them."""
    cpu = spec.cpu
    made = [element("vcpu", text=str(cpu.maximum), current=cpu.count)]
    if cpu.io_threads:
        made.append(element("iothreads", text=str(cpu.io_threads)))
    return [*made, *_tuning(cpu), *_numa_tuning(cpu), _model(spec)]


def _tuning(cpu: Cpu) -> list[Element]:
    shares = [] if cpu.shares is None else [element("shares", text=str(cpu.shares))]
    pins = [element("vcpupin", vcpu=vcpu, cpuset=cpuset) for vcpu, cpuset in cpu.pinning.items()]
    return [element("cputune", *shares, *pins)] if shares or pins else []


def _numa_tuning(cpu: Cpu) -> list[Element]:
    tuning = cpu.tuning
    if tuning is None:
        return []
    cells = [element("memnode", cellid=cell, mode=tuning.mode, nodeset=nodes) for cell, nodes in tuning.cells.items()]
    return [element("numatune", element("memory", mode=tuning.mode, nodeset=tuning.nodeset), *cells)]


def _model(spec: VmSpec) -> Element:
    cpu = spec.cpu
    made = _named_model(cpu.model)
    made.append(
        element("topology", sockets=cpu.maximum // cpu.cores // cpu.threads, cores=cpu.cores, threads=cpu.threads)
    )
    cells = cpu.cells
    if not cells and spec.memory.maximum_mib is not None and spec.memory.maximum_mib > spec.memory.size_mib:
        # libvirt plugs memory into NUMA cells only.
        cells = (NumaCell(index=0, cpus=f"0-{cpu.maximum - 1}", memory_mib=spec.memory.size_mib),)
    if cells:
        made.append(element("numa", *(_cell(cell) for cell in sorted(cells, key=lambda cell: cell.index))))
    return made


def _cell(cell: NumaCell) -> Element:
    return element("cell", id=cell.index, cpus=cell.cpus, memory=cell.memory_mib * 1024, unit="KiB")


def _named_model(text: str) -> Element:
    model, *flags = text.split(",")
    if model == "hostPassthrough":
        return element("cpu", mode="host-passthrough")
    if model == "hostModel":
        return element("cpu", mode="host-model")
    if model == "qemu64" and "+svm" not in flags:
        flags = [flag for flag in flags if flag != "-svm"] + ["-svm"]
    features = [
        element("feature", name=flag[1:].replace("sse4_", "sse4."), policy="require" if flag[0] == "+" else "disable")
        for flag in flags
        if flag[:1] in ("+", "-")
    ]
    return element("cpu", element("model", text=model), *features, match="exact")
