"""Every domain that we start is one by libvirt's own schema."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.domains import list_cases

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
pytestmark = pytest.mark.skipif(
    shutil.which("xmllint") is None or not SCHEMA.exists(), reason="xmllint or libvirt's schema is not installed"
)


def find_faults(*files: Path) -> list[str]:
    done = subprocess.run(["xmllint", "--noout", "--relaxng", SCHEMA, *files], capture_output=True, text=True)
    return [line for line in done.stderr.splitlines() if not line.endswith(" validates")]


def test_the_domains_of_all_cases_are_valid() -> None:
    cases = list_cases()
    assert len(cases) >= 40 and sum(case.is_started for case in cases) >= 40
    assert find_faults(*(case.expected for case in cases)) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "domain.xml"
    broken.write_text(list_cases()[0].expected.read_text().replace("<devices>", "<devices><hologram/>"))
    assert find_faults(broken)
