"""Lists of processors as the kernel and libvirt write them: `0-3,8`."""

MOST_CPUS = 8192
"""What the kernel can be built for."""


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Ascending numbers; empty text is no CPU. Raises ValueError for what is no list of CPUs that can be."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        start, end = _parse(first), _parse(last or first)
        cpus.update(range(start, end + 1))
    return tuple(sorted(cpus))


def _parse(text: str) -> int:
    number = int(text) if len(text.strip()) <= len(str(MOST_CPUS)) else MOST_CPUS
    if not 0 <= number < MOST_CPUS:
        raise ValueError(f"{text.strip()[:20]!r} is no CPU")
    return number
