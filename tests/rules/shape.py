"""Sizes, depth, names and docstrings of the sources; the numbers are the house's."""

import ast
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from tests.rules import house
from tests.rules.source import Module

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith),
    *(ast.Try, ast.TryStar, ast.Match),
)


def check_file_lengths(modules: list[Module]) -> list[str]:
    """Files over the limit."""
    return [
        f"{module.path}: {lines} lines, {house.FILE_LINES} at most: a second job is hiding in it, give it its own file"
        for module in modules
        if (lines := len(module.text.splitlines())) > house.FILE_LINES
    ]


def check_total(modules: list[Module]) -> list[str]:
    """Whether the product grew beyond what one person can know."""
    lines = sum(module.code_lines for module in modules)
    return [f"src/ has {lines} lines of code, {house.SOURCE_LINES} at most"] if lines > house.SOURCE_LINES else []


def check_function_lengths(modules: list[Module]) -> list[str]:
    """Functions whose body (without the docstring) is over the limit, and exceptions that are needed no more."""
    long = {
        f"{module.path}:{node.name}": (lines, node.lineno)
        for module in modules
        for node in _list_functions(module.tree)
        if (lines := _count_body_lines(node)) > house.FUNCTION_LINES
    }
    return [
        f"{name} (line {line}): a body of {lines} lines, {house.FUNCTION_LINES} at most: name its steps"
        for name, (lines, line) in long.items()
        if name not in house.LONG_FUNCTIONS
    ] + [f"{name} is short: take it from LONG_FUNCTIONS" for name in house.LONG_FUNCTIONS if name not in long]


def check_class_sizes(modules: list[Module]) -> list[str]:
    """Classes with too many methods, and exceptions that are needed no more."""
    large = {
        f"{module.path}:{node.name}": count
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and (count := _count_methods(node)) > house.CLASS_METHODS
    }
    return [
        f"{name}: {count} methods, {house.CLASS_METHODS} at most: it has more than one job"
        for name, count in large.items()
        if name not in house.LARGE_CLASSES
    ] + [f"{name} is small: take it from LARGE_CLASSES" for name in house.LARGE_CLASSES if name not in large]


def check_nesting(modules: list[Module]) -> list[str]:
    """Functions with blocks in blocks beyond the limit."""
    return [
        f"{module.path}:{node.lineno}: {node.name} nests {depth} blocks, {house.NESTING} at most: return early or name"
        " the inner part"
        for module in modules
        for node in _list_functions(module.tree)
        if (depth := _get_depth(node)) > house.NESTING
    ]


def check_names(modules: list[Module]) -> list[str]:
    """Modules and folders named after nothing."""
    return [
        f"{module.path}: {part} says nothing about what is in it: name the noun"
        for module in modules
        for part in PurePosixPath(module.path).with_suffix("").parts
        if part in house.SHAPELESS_NAMES
    ]


def check_docstrings(modules: list[Module]) -> list[str]:
    """Modules, public classes, public functions and verbs of the API that promise nothing."""
    return [problem for module in modules for problem in _list_missing_docstrings(module)]


def check_untyped(modules: list[Module]) -> list[str]:
    """Functions without full annotations (mypy says so too; this one knows no `# type: ignore`)."""
    return [
        f"{module.path}:{node.lineno}: {node.name} is not fully typed"
        for module in modules
        for node in _list_functions(module.tree)
        if node.returns is None or any(a.annotation is None and a.arg not in ("self", "cls") for a in _arguments(node))
    ]


def _list_functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    spec = node.args
    named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    return [*named, *(extra for extra in (spec.vararg, spec.kwarg) if extra is not None)]


def _count_body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _count_methods(node: ast.ClassDef) -> int:
    return sum(isinstance(member, FUNCTIONS) for member in node.body)


def _get_depth(node: ast.AST) -> int:
    deepest = 0
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children:
            if not isinstance(child, ast.AST) or isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                continue
            opens = isinstance(child, BLOCKS) and not _is_elif(node, name, child)
            deepest = max(deepest, opens + _get_depth(child))
    return deepest


def _is_elif(parent: ast.AST, field: str, child: ast.AST) -> bool:
    """`elif` is no deeper than its `if`, though the syntax tree has it so."""
    is_only_child = isinstance(parent, ast.If) and field == "orelse" and len(parent.orelse) == 1
    return (
        is_only_child
        and isinstance(child, ast.If)
        and isinstance(parent, ast.If)
        and child.col_offset == parent.col_offset
    )


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _list_missing_docstrings(module: Module) -> Iterator[str]:
    if not module.docstring:
        yield f"{module.path}: open with what it does and what it leaves to others"
    for node in module.tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and _is_public(node.name) and not ast.get_docstring(node):
            yield f"{module.path}:{node.lineno}: {node.name} promises nothing (docstring)"
        if isinstance(node, ast.ClassDef):
            yield from _list_silent_verbs(module, node)


def _list_silent_verbs(module: Module, node: ast.ClassDef) -> Iterator[str]:
    """A verb's docstring is its documentation in every dialect."""
    is_verb: Callable[[ast.expr], bool] = lambda d: isinstance(d, ast.Call) and ast.unparse(d.func) == "verb"  # noqa: E731
    for member in node.body:
        if isinstance(member, FUNCTIONS) and any(map(is_verb, member.decorator_list)) and not ast.get_docstring(member):
            yield f"{module.path}:{member.lineno}: the verb {node.name}.{member.name} promises nothing (docstring)"
