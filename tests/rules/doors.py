"""What only named files may do: catch everything, start processes, be untyped; the doors are the house's."""

import ast
from collections.abc import Iterable, Iterator

from tests.rules import house
from tests.rules.source import Module

BROAD = frozenset({"Exception", "BaseException"})
PROCESS_MODULES = frozenset({"subprocess", "multiprocessing", "pty"})
PROCESS_CALLS = frozenset(
    {
        *("os.fork", "os.forkpty", "os.system", "os.popen", "os.posix_spawn", "os.posix_spawnp"),
        *(
            f"os.{kind}{form}"
            for kind in ("exec", "spawn")
            for form in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")
        ),
        *("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"),
        *("concurrent.futures.ProcessPoolExecutor", "futures.ProcessPoolExecutor", "ProcessPoolExecutor"),
        *("create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell"),
    }
)


def check_broad_handlers(modules: list[Module]) -> list[str]:
    """Handlers of everything outside the doors; bare ones anywhere. One that ends in `raise` only cleans up."""
    return [
        f"{module.path}:{line}: {what}"
        for module in modules
        for line, what in _list_broad(module.tree)
        if "bare" in what or not _is_behind(module.path, house.BROAD_DOORS)
    ]


def check_processes(modules: list[Module]) -> list[str]:
    """Files that start processes by themselves."""
    return [
        f"{module.path}:{line}: {what} starts processes, which adapters/run.py alone does"
        for module in modules
        if not _is_behind(module.path, house.PROCESS_DOORS)
        for line, what in _list_process_uses(module.tree)
    ]


def check_any(modules: list[Module]) -> list[str]:
    """Untyped values where types are known."""
    return [
        f"{module.path}:{node.lineno}: Any: name the type, or object when it may be anything"
        for module in modules
        if not _is_behind(module.path, house.ANY_DOORS)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in ("Any", "typing.Any")
    ]


def _is_behind(path: str, doors: Iterable[str]) -> bool:
    return any(path == door or (door.endswith("/") and path.startswith(door)) for door in doors)


def _list_broad(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            names = _list_names(node.type)
            ends_in_raise = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if node.type is None:
                yield node.lineno, "bare except: name what you can handle"
            elif names & BROAD and not ends_in_raise:
                yield node.lineno, f"catches {', '.join(sorted(names & BROAD))}: name what you can handle"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
            caught = {ast.unparse(argument) for argument in node.args} & BROAD
            if caught:
                yield node.lineno, f"suppresses {', '.join(sorted(caught))}: name what you can handle"


def _list_names(node: ast.expr | None) -> set[str]:
    if node is None:
        return set()
    listed = node.elts if isinstance(node, ast.Tuple) else [node]
    return {ast.unparse(name).removeprefix("builtins.") for name in listed}


def _list_process_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node), node.attr if node.attr.startswith("subprocess_") else ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] in PROCESS_MODULES and not isinstance(node, ast.Attribute) or name in PROCESS_CALLS:
                yield node.lineno, name
                break
