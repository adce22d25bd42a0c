"""Committed text is clean, its links lead somewhere, decisions are numbered, programs exist."""

import importlib
import subprocess
import tomllib

import pytest

from tests.rules import documents
from tests.rules.source import REPOSITORY


def read_committed_texts():
    """Files that git knows or would add, and that are text."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    texts = {}
    for path in filter(None, listed.split("\0")):
        file = REPOSITORY / path
        if file.is_file() and b"\0" not in (data := file.read_bytes()):
            texts[path] = data.decode()
    return texts


def test_committed_text_is_clean():
    assert documents.check_text(read_committed_texts()) == []


def test_links_lead_somewhere():
    pages = {path: text for path, text in read_committed_texts().items() if path.endswith(".md")}
    assert documents.check_links(pages, REPOSITORY) == []


def test_decisions_are_numbered_and_listed():
    pages = {file.name: file.read_text() for file in (REPOSITORY / "docs/decisions").glob("*.md")}
    assert documents.check_decisions(pages) == []


def test_every_program_exists():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), target


def test_unit_tests_mirror_the_sources():
    folders = {file.parent.relative_to(REPOSITORY / "tests/unit") for file in (REPOSITORY / "tests/unit").rglob("*.py")}
    assert [str(folder) for folder in folders if not (REPOSITORY / "src/vdsm" / folder).is_dir()] == []


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("x = 1 \n", "blanks"),
        ("x = 1", "no end"),
        ("pip install --index-url https://pypi" + ".org/simple\n", "registry"),
        ("see /wo" + "rk/main/README.md\n", "one machine"),
        ("cd /ho" + "me/somebody/src\n", "one machine"),
    ],
)
def test_unclean_text_is_told(line, hint):
    [problem] = documents.check_text({"docs/tour.md": line})
    assert hint in problem


def test_clean_text_passes():
    assert documents.check_text({"a.md": "Work/main is a place, /home is another.\n", "b.py": ""}) == []


def test_links_into_nothing_are_told(tmp_path):
    (tmp_path / "a.md").write_text("# First part: how\n")
    page = (
        "[a](a.md#first-part-how) [b](b.md) [c](a.md#second) [d](https://example.org/x) `[e](f)`\n```\n[g](h.md)\n```\n"
    )
    problems = documents.check_links({"p.md": page.replace("`[e](f)`", "")}, tmp_path)
    assert problems == ["p.md: b.md leads nowhere", "p.md: a.md#second: no such heading"]


def test_decisions_out_of_order_are_told():
    pages = {
        "README.md": "[1](0001-first.md) [3](0003-third.md)",
        "0001-first.md": "# 1. First\n",
        "0003-third.md": "# Third\n",
        "later.md": "",
    }
    assert documents.check_decisions(pages) == [
        "later.md: name it NNNN-what-was-decided.md",
        "0003-third.md: number 2 is due",
        "0003-third.md: begin with `# 3. ` and the decision",
    ]
