"""Who may import whom: one direction, no cycles; the table is the house's."""

import sys
from collections import defaultdict

from tests.rules import house
from tests.rules.source import Import, Module, list_imports


def check_direction(modules: list[Module]) -> list[str]:
    """Imports that the house's table does not allow."""
    return [
        f"{found}: {reason}"
        for found in list_imports(modules)
        if _is_ours(found.target) and (reason := _refuse(found)) is not None
    ]


def _is_ours(target: str) -> bool:
    return target.split(".")[0] in {"vdsm", *house.SCRIPT_MODULES}


def _get_room(target: str) -> str:
    parts = target.split(".")
    return parts[1] if len(parts) > 1 else ""


def _refuse(found: Import) -> str | None:
    """Why this import may not be, or None."""
    importer, target = found.importer.name, found.target
    if (importer, target) in house.ALLOWED_IMPORTS:
        return None
    if target in house.ROOTS:
        return "nobody imports a composition root"
    if target.split(".")[0] != "vdsm":
        return None if importer in house.SCRIPT_MODULES else "only old scripts import the names of 2011"
    if importer in house.ROOTS:
        return None
    room = _get_room(target)
    if importer in house.SCRIPT_MODULES:
        return None if room in house.SCRIPT_MODULES[importer] else f"scripts' modules see {_list_allowed(importer)}"
    if room == found.importer.room or (target == "vdsm" and found.importer.room != "helper"):
        return None
    return _refuse_between_rooms(found, room)


def _list_allowed(importer: str) -> str:
    return ", ".join(sorted(house.SCRIPT_MODULES[importer])) or "nothing"


def _refuse_between_rooms(found: Import, room: str) -> str | None:
    home = found.importer.room
    if home not in house.ROOMS:
        return f"{home or 'the package itself'} has no row in tests/rules/house.py, ROOMS"
    if home == "adapters" and room in house.DOMAINS:
        is_port = found.target.split(".")[2:3] == ["ports"] or found.target in house.VALUES_FOR_ADAPTERS
        return None if is_port else "adapters see a domain's `ports` module and no more: move the value there"
    if home == "storage" and room == "api" and not found.importer.name.startswith(house.STORAGE_API_USERS):
        return "in storage/ only services/ knows the API: the repository stands alone"
    if room in house.ROOMS[home]:
        return None
    if home in house.DOMAINS and room in house.DOMAINS:
        return "domains never import each other: declare what you need in ports.py, daemon.py hands it over"
    return f"{home} may import {', '.join(sorted(house.ROOMS[home])) or 'nothing'} and itself"


def check_helper(modules: list[Module]) -> list[str]:
    """Imports of the privileged helper beyond the standard library and itself."""
    return [
        f"{found}: what runs as root uses the standard library only"
        for found in list_imports(modules)
        if found.importer.room == "helper"
        and not found.target.startswith("vdsm.helper")
        and found.target.split(".")[0] not in sys.stdlib_module_names
    ]


def check_cycles(modules: list[Module]) -> list[str]:
    """Chains of imports that end where they begin, each told once."""
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = defaultdict(set)
    for found in list_imports(modules):
        pair = (found.importer.name, found.target)
        if found.target in known and found.target != found.importer.name and pair not in house.ALLOWED_IMPORTS:
            graph[found.importer.name].add(found.target)
    cycles: dict[frozenset[str], list[str]] = {}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            cycle = path[path.index(name) :]
            cycles.setdefault(frozenset(cycle), cycle)
            return
        if name in done:
            return
        for target in sorted(graph[name]):
            visit(target, [*path, name])
        done.add(name)

    for name in sorted(known):
        visit(name, [])
    return [" -> ".join([*cycle, cycle[0]]) for cycle in cycles.values()]
