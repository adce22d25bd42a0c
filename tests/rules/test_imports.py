"""The import rules hold in src/, and fail where they should."""

import pytest

from tests.rules import imports
from tests.rules.source import list_imports, list_modules, sample


def test_imports_run_one_way():
    assert imports.check_direction(list_modules()) == []


def test_the_helper_imports_nothing_but_itself():
    assert imports.check_helper(list_modules()) == []


def test_there_are_no_cycles():
    assert imports.check_cycles(list_modules()) == []


@pytest.mark.parametrize(
    ("module", "text", "hint"),
    [
        ("vdsm__core__ids", "import vdsm.api.vm", "core may import nothing"),
        ("vdsm__virt__queue", "from vdsm.storage import model", "daemon.py hands it over"),
        ("vdsm__virt__queue", "def f() -> None:\n    import vdsm.storage.model", "daemon.py hands it over"),
        (
            "vdsm__virt__queue",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vdsm.host.ports import Cpu",
            "daemon.py hands it over",
        ),
        ("vdsm__wire__rest", "import importlib\nimportlib.import_module('vdsm.virt.service')", "wire may import"),
        ("vdsm__wire__rest", "from ..virt import service", "wire may import"),
        ("vdsm__virt__service", "import vdsm.adapters.libvirt", "virt may import"),
        ("vdsm__virt__service", "from vdsm.testing import hypervisor", "virt may import"),
        ("vdsm__cli__client", "import vdsm.virt.service", "cli may import"),
        ("vdsm__adapters__lvm", "from vdsm.storage.model import Volume", "`ports` module and no more"),
        ("vdsm__storage__model", "from vdsm.api.storage import VolumeInfo", "stands alone"),
        ("vdsm__storage__servicesque", "from vdsm.api.storage import VolumeInfo", "stands alone"),
        ("vdsm__cli__client", "from vdsm.daemon import main", "nobody imports a composition root"),
        ("vdsm__daemon", "import vdscli", "names of 2011"),
        ("vdscli", "import vdsm.virt.service", "scripts' modules see"),
        ("vdsm__attic__thing", "import vdsm.core.ids", "no row"),
        ("vdsm__helper__verbs", "import vdsm", "helper may import nothing"),
    ],
)
def test_a_wrong_import_is_told(module, text, hint):
    [problem] = imports.check_direction(sample(**{"vdsm__virt__service": "", module: text}))
    assert hint in problem


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("vdsm__virt__queue", "from vdsm.core import ids\nfrom vdsm.api.vm import VmApi\nimport vdsm.virt.model"),
        ("vdsm__adapters__libvirt", "from vdsm.virt.ports import Hypervisor\nfrom vdsm.adapters.run import run"),
        ("vdsm__storage__services__domains", "from vdsm.api.storage import VolumeInfo"),
        ("vdsm__storage__services__volumes", "from vdsm.api.storage import VolumeInfo"),
        ("vdsm__daemon", "import vdsm.virt.service, vdsm.adapters.run, vdsm.testing.hypervisor"),
        ("vdsm__wire__openapi", "from vdsm import __version__"),
        (
            "vdsm__storage",
            "def __getattr__(name: str) -> object:\n    import vdsm.repository\n    return vdsm.repository",
        ),
        ("vdscli", "import xmlrpc.client\nfrom vdsm.local import find_paths"),
    ],
)
def test_a_right_import_passes(module, text):
    assert imports.check_direction(sample(**{module: text})) == []


def test_the_helper_is_caught_with_a_package():
    [problem] = imports.check_helper(sample(vdsm__helper__main="import json\nimport msgspec\nimport vdsm.helper.verbs"))
    assert "msgspec" in problem


def test_a_cycle_is_told_once_wherever_its_imports_hide():
    modules = sample(
        vdsm__core__a="import vdsm.core.b",
        vdsm__core__b="def f() -> None:\n    from vdsm.core import c",
        vdsm__core__c="from vdsm.core.a import x",
        vdsm__core__d="import vdsm.core.a",
    )
    assert imports.check_cycles(modules) == ["vdsm.core.a -> vdsm.core.b -> vdsm.core.c -> vdsm.core.a"]


def test_relative_imports_are_resolved(tmp_path):
    (tmp_path / "src/vdsm/virt").mkdir(parents=True)
    (tmp_path / "src/vdsm/virt/__init__.py").write_text("from . import queue\nfrom ..core import ids\n")
    (tmp_path / "src/vdsm/virt/queue.py").write_text("from .model import Vm\n")
    found = list_imports(list_modules(tmp_path))
    assert [i.target for i in found] == ["vdsm.virt.queue", "vdsm.core", "vdsm.virt.model"]
