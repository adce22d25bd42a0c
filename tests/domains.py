"""The cases of tests/golden/domxml: what a client sends as a VM, and the domain that becomes of it before the start.

`input.json` is the dictionary form as it travels, `input.xml` the XML form. A case with a file `not-started` cannot run
on a plain host; the file says why.
"""

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from vdsm.api.vm import VmParameters
from vdsm.wire.dialects.forms import Forms

GOLDEN = Path(__file__).parent / "golden/domxml"
CASE_ID = "aaaaaaaa-0000-4000-8000-00000000000a"
"""The VM's id in all cases."""
FILES = "/run/forms"
"""The folder of their files in all cases."""
_form = Forms().get(VmParameters)


class Case(Struct, frozen=True):
    """One VM."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def expected(self) -> Path:
        return self.folder / "expected.xml"

    @property
    def is_started(self) -> bool:
        return not (self.folder / "not-started").exists()

    def read(self, vm_id: str = CASE_ID, files: str = FILES) -> dict[str, Any]:
        """`vmParams` of `VM.create`, for the VM of that id with the files in that folder."""
        dictionary = self.folder / "input.json"
        if dictionary.exists():
            return dict(json.loads(dictionary.read_text().replace(FILES, files)))
        return {"xml": (self.folder / "input.xml").read_text().replace(CASE_ID, vm_id).replace(FILES, files)}

    def read_expected(self, vm_id: str, files: str) -> str:
        """The domain of such a VM."""
        return self.expected.read_text().replace(CASE_ID, vm_id).replace(FILES, files)

    def parse(self) -> VmParameters:
        """The same as the service gets it."""
        parameters = _form.decode(self.read(), "vmParams")
        assert isinstance(parameters, VmParameters)
        return parameters


def list_cases() -> list[Case]:
    """All of them."""
    return [Case(folder) for folder in sorted(GOLDEN.iterdir())]
