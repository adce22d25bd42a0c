"""Committed text: no stray blanks, no address of a registry, no path of one machine, no link into nothing."""

import re
from pathlib import Path

from tests.rules import house

REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "deb." + "debian.org", "docker" + ".io", "registry" + ".npmjs")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wo" r"rk/(?:main|shared)|opt/(?:pypi|wheels)|ro" r"ot/\.py)|/ho" r"me/\w+/")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
DECISION = re.compile(r"^(\d{4})-[a-z0-9-]+\.md$")


def check_text(texts: dict[str, str]) -> list[str]:
    """Blanks at line ends, missing last newlines, addresses and paths that hold on one machine only."""
    problems = []
    for path, text in texts.items():
        if path.startswith(house.UNCHECKED_TEXT):
            continue
        if text and not text.endswith("\n"):
            problems.append(f"{path}: the last line has no end")
        for number, line in enumerate(text.splitlines(), start=1):
            if line != line.rstrip():
                problems.append(f"{path}:{number}: blanks at the end of the line")
            if found := next((name for name in REGISTRIES if name in line), None):
                problems.append(f"{path}:{number}: {found}: which registry is used is the reader's choice")
            if MACHINE_PATHS.search(line):
                problems.append(f"{path}:{number}: a path of one machine: {line.strip()[:80]}")
    return problems


def check_links(pages: dict[str, str], root: Path) -> list[str]:
    """Links of Markdown pages to files or headings that are not there."""
    problems = []
    for path, text in pages.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for target in LINK.findall(prose):
            if "://" in target or target.startswith("mailto:"):
                continue
            name, _, anchor = target.partition("#")
            file = (root / path).parent / name if name else root / path
            if not file.exists():
                problems.append(f"{path}: {target} leads nowhere")
            elif anchor and file.suffix == ".md" and anchor not in _list_anchors(file.read_text()):
                problems.append(f"{path}: {target}: no such heading")
    return problems


def _list_anchors(text: str) -> set[str]:
    def format_anchor(heading: str) -> str:
        return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")

    return {format_anchor(heading) for heading in HEADING.findall(text)}


def check_decisions(pages: dict[str, str]) -> list[str]:
    """Pages of docs/decisions: numbered without a gap, titled `# N. …`, each in the list of the README there."""
    names = sorted(name for name in pages if name != "README.md")
    problems = [f"{name}: name it NNNN-what-was-decided.md" for name in names if not DECISION.match(name)]
    numbered = [name for name in names if DECISION.match(name)]
    for expected, name in enumerate(numbered, start=1):
        if int(name[:4]) != expected:
            problems.append(f"{name}: number {expected} is due")
        if not pages[name].startswith(f"# {int(name[:4])}. "):
            problems.append(f"{name}: begin with `# {int(name[:4])}. ` and the decision")
        if f"({name})" not in pages.get("README.md", ""):
            problems.append(f"{name}: not in the list of docs/decisions/README.md")
    return problems
