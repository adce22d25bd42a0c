"""Python sources as the rules see them: parsed once, with their imports resolved; judging them is left to the rules."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@dataclass(frozen=True)
class Module:
    """One file; `path` is relative to the repository, `name` is what an import says."""

    path: str
    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def docstring(self) -> str | None:
        return ast.get_docstring(self.tree)

    @cached_property
    def code_lines(self) -> int:
        """Lines that carry code: no blank ones, no comments, no text that stands alone (docstrings)."""
        words = tokenize.generate_tokens(io.StringIO(self.text).readline)
        code = {line for word in words if word.type not in NO_CODE for line in range(word.start[0], word.end[0] + 1)}
        texts = [node for node in ast.walk(self.tree) if isinstance(node, ast.Expr) and _is_text(node.value)]
        return len(code - {line for node in texts for line in range(node.lineno, (node.end_lineno or 0) + 1)})

    @property
    def room(self) -> str:
        """The folder of src/vdsm (or the module beside them) that it lives in; empty for `vdsm` itself."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""


@dataclass(frozen=True)
class Import:
    """One imported module, wherever in the file: at the top, in a function, or for the type checker alone."""

    importer: Module
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.importer.path}:{self.line}: {self.importer.name} imports {self.target}"


@cache
def list_modules(root: Path = REPOSITORY) -> list[Module]:
    """Every module under `root`/src, read once."""
    found = []
    for file in sorted((root / "src").rglob("*.py")):
        parts = file.relative_to(root / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(str(file.relative_to(root)), name, file.read_text()))
    return found


def sample(**files: str) -> list[Module]:
    """Modules made of text: `sample(vdsm__virt__queue="import vdsm.storage")`."""
    return [
        Module("src/" + key.replace("__", "/") + ".py", key.replace("__", "."), text) for key, text in files.items()
    ]


def list_imports(modules: list[Module]) -> list[Import]:
    """All imports of all modules; `from a import b` counts as `a.b` where that is one of these modules."""
    known = {module.name for module in modules}
    return [
        Import(module, line, target)
        for module in modules
        for node in ast.walk(module.tree)
        for line, target in _get_targets(module, node, known)
    ]


def _get_targets(module: Module, node: ast.AST, known: set[str]) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Import():
            yield from ((node.lineno, alias.name) for alias in node.names)
        case ast.ImportFrom():
            origin = _resolve(module, node)
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield node.lineno, whole if whole in known else origin
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            yield node.lineno, target


def _resolve(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = module.path.endswith("/__init__.py")
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])
