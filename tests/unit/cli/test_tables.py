"""Tables for people, drawn from answers as the wire carries them."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.unit.cli.remote import FakeRemote
from vdsm.api.catalogue import list_all_verbs
from vdsm.api.storage_types import DomainStats
from vdsm.api.task import TaskStatus
from vdsm.api.vm import VmInfo
from vdsm.api.vm_types import DisplayInfo, VmDiskStats, VmStats
from vdsm.cli.client import main
from vdsm.cli.tables import Json, print_answer
from vdsm.cli.views import COLUMNS, SUMMARIES
from vdsm.wire.dialects.ovirt import OvirtDialect

VERBS = {verb.ovirt: verb for verb in list_all_verbs()}
DIALECT = OvirtDialect(tuple(VERBS.values()))


def draw(verb: str, answer: Json, width: int = 160) -> str:
    output = io.StringIO()
    print_answer(Console(file=output, width=width, highlight=False), VERBS[verb], answer)
    return output.getvalue()


def encode(verb: str, result: object) -> Json:
    """A result as the daemon sends it."""
    encoder = DIALECT.shapes[verb].encode
    assert encoder is not None
    encoded: Json = encoder(result)
    return encoded


def list_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines() if line.strip()]


STATS = VmStats(
    vm_id="11111111-aaaa-4000-8000-000000000001",
    status="Up",
    status_time_ms=1,
    name="web",
    elapsed_s=3725,
    cpu_user_percent=12.5,
    cpu_system_percent=0.0,
    memory_used_percent=40,
    kvm=True,
    display_info=[DisplayInfo(type="vnc", port="5900", tls_port="-1", address="0")],
    disks={"vda": VmDiskStats(size_bytes=107374182400, allocated_bytes=196624, reads=7)},
)


def test_vms_are_listed_with_their_figures_in_human_units() -> None:
    heading, _, row = list_rows(draw("Host.getAllVmStats", encode("Host.getAllVmStats", [STATS])))
    assert heading == ["name", "vm id", "status", "elapsed", "cpu user", "cpu system", "memory used", "display info"]
    assert row == ["web", STATS.vm_id, "Up", "1 h 2 min", "12.5 %", "0 %", "40 %", "vnc 0:5900"]


def test_columns_that_no_row_fills_are_left_out() -> None:
    down = VmInfo(vm_id="a", status="Down", status_time_ms=1, exit_message="lost")
    up = VmInfo(vm_id="b", status="Up", status_time_ms=1)
    rows = list_rows(draw("Host.getVMList", encode("Host.getVMList", [down, up])))
    assert rows == [["vm id", "status", "exit message"], rows[1], ["a", "Down", "lost"], ["b", "Up"]]


def test_one_vm_is_shown_by_its_fields_and_its_disks_as_a_table() -> None:
    text = draw("VM.getStats", encode("VM.getStats", STATS))
    rows = list_rows(text)
    assert ["name", "web"] in rows
    assert ["kvm", "yes"] in rows
    assert ["vda", "100 GiB", "192 KiB", "0 B/s", "0 B/s", "7", "0"] in rows


def test_space_of_a_domain_is_in_gib() -> None:
    answer = encode("StorageDomain.getStats", DomainStats(total_bytes=2**40, free_bytes=3 * 2**29))
    assert list_rows(draw("StorageDomain.getStats", answer))[:2] == [["total", "1 TiB"], ["free", "1.5 GiB"]]


def test_tasks_are_listed_in_the_order_of_their_ids() -> None:
    tasks = {
        id: TaskStatus(task_id=id, state="finished", result="success", code=0, message="done") for id in ("b", "a")
    }
    rows = list_rows(draw("Host.getAllTasksStatuses", encode("Host.getAllTasksStatuses", tasks)))
    assert rows[0] == ["task id", "state", "result", "code", "message"]
    assert [row[0] for row in rows[2:]] == ["a", "b"]


@pytest.mark.parametrize(
    ("verb", "answer", "text"),
    [
        ("Host.ping2", True, "Done\n"),
        ("Host.echo", "hello", "hello\n"),
        ("VM.pause", {"vmList": {}}, "Done\n"),
        ("Host.getVMList", [], "nothing\n"),
        ("Host.getStorageDomains", ["one", "two"], "one\ntwo\n"),
        ("Image.prepare", {"path": "/p"}, "path  /p\n"),
    ],
)
def test_plain_answers_stay_plain(verb: str, answer: Json, text: str) -> None:
    assert draw(verb, answer) == text


def test_names_cannot_write_to_the_terminal() -> None:
    answer: Json = [{"vmId": "x", "status": "Up", "vmName": "a\x1b[31mb\r[bold]c[/bold]"}]
    text = draw("Host.getAllVmStats", answer)
    assert r"a\x1b[31mb\r[bold]c[/bold]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("view", [COLUMNS, SUMMARIES])
def test_views_name_fields_that_exist(view: dict[type, tuple[str, ...]]) -> None:
    for shape, names in view.items():
        assert set(names) <= set(shape.__struct_fields__), shape  # type: ignore[attr-defined]


def test_tables_are_printed_only_when_asked_for_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    remote = FakeRemote([{"vmId": "x", "status": "Up", "statusTime": "1"}])
    assert main(["--table", "Host", "getVMList"], remote.connect) == 0
    assert list_rows(capsys.readouterr().out)[2] == ["x", "Up"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["vmId", "status", "disks", "info", "displayInfo", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(verb=st.sampled_from(sorted(VERBS)), answer=json_values)
def test_an_answer_that_does_not_fit_is_printed_all_the_same(verb: str, answer: Json) -> None:
    assert draw(verb, answer)
