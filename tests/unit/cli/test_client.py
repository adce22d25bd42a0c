"""`vdsm-client`: words in, one call and one printed answer out (facts: rpc §1.10)."""

import io
import json
import socket
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from tests.unit.cli.remote import FakeRemote
from vdsm import client
from vdsm.cli.client import command, list_namespaces, main
from vdsm.cli.completion import SHELLS, format_script

GOLDEN = Path("tests/golden/cli")
VERBS = [(name, method) for name, namespace in list_namespaces().items() for method in namespace.verbs]


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VDSM_ROOT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def run(remote: FakeRemote, *words: str) -> int:
    return main(words, remote.connect)


def test_result_is_indented_json_with_sorted_keys(remote: FakeRemote, capsys: pytest.CaptureFixture[str]) -> None:
    remote.answer = {"b": [1, {"d": None, "c": "é"}], "a": 1.5}
    assert run(remote, "Host", "getStats") == 0
    assert capsys.readouterr().out == json.dumps(remote.answer, indent=4, sort_keys=True) + "\n"
    assert remote.calls == [("Host.getStats", {})]


def test_values_are_text_whatever_they_look_like(remote: FakeRemote) -> None:
    assert run(remote, "VM", "setTicket", "vmID=1", "ttl=120", "password=a=b", "params=[]", "existingConnAction=") == 0
    expected = {"vmID": "1", "ttl": "120", "password": "a=b", "params": "[]", "existingConnAction": ""}
    assert remote.calls == [("VM.setTicket", expected)]


def test_parameters_from_a_file_keep_their_types(remote: FakeRemote, tmp_path: Path) -> None:
    params = {"vmID": "x", "vmParams": {"memSize": 256, "drives": [{"path": "/d"}], "kvmEnable": True}}
    (tmp_path / "vm.json").write_text(json.dumps(params))
    assert run(remote, "-f", str(tmp_path / "vm.json"), "VM", "create") == 0
    assert remote.calls == [("VM.create", params)]


def test_a_dash_reads_standard_input(remote: FakeRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"vmList": ["a"]}'))
    assert run(remote, "-f", "-", "Host", "getVMList") == 0
    assert remote.calls == [("Host.getVMList", {"vmList": ["a"]})]


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "null", "[" * 100_000, "\ud800"])
def test_a_file_that_is_no_json_object_is_a_usage_error(
    remote: FakeRemote, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "params.json"
    file.write_bytes(text.encode(errors="surrogatepass"))
    assert run(remote, "-f", str(file), "Host", "ping") == 2
    assert str(file) in capsys.readouterr().err
    assert remote.targets == []


@pytest.mark.parametrize(
    "words",
    [
        ["Hosts", "ping"],
        ["Host", "pong"],
        ["Host", "echo", "message"],
        ["Host", "echo", "=message"],
        ["Host", "-a", "other", "ping"],
        ["Host", "ping", "--timeout", "3"],
        ["-p", "0", "Host", "ping"],
        ["-p", "x", "Host", "ping"],
        ["--timeout", "0", "Host", "ping"],
        ["--bogus", "Host", "ping"],
        ["-f", "/no/such/file", "Host", "ping"],
        ["-f", "/dev/null", "Host", "ping"],
        ["-f", "-", "Host", "echo", "message=x"],
        ["--socket", "/s", "-a", "other", "Host", "ping"],
        ["--json", "--table", "Host", "ping"],
        ["--completion", "tcsh"],
    ],
)
def test_words_that_make_no_sense_exit_with_2_and_call_nobody(
    remote: FakeRemote, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(remote, *words) == 2
    assert "Error: " in capsys.readouterr().err
    assert remote.targets == []


@pytest.mark.parametrize(("words", "missing"), [([], "namespace"), (["Host"], "method")])
def test_missing_words_exit_with_1(
    remote: FakeRemote, words: list[str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(remote, *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("vdsm-client: ")
    assert f"a {missing}" in error


def test_a_misspelt_word_is_answered_with_a_hint(remote: FakeRemote, capsys: pytest.CaptureFixture[str]) -> None:
    run(remote, "VM", "getstats")
    assert "did you mean getStats" in capsys.readouterr().err


def test_a_refusal_tells_command_arguments_code_and_message(
    remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"vmID": "x", "password": "geheim"}
    remote.answer = client.ServerError("VM.setTicket", params, 1, "Virtual machine does not exist")
    assert run(remote, "VM", "setTicket", "vmID=x", "password=geheim") == 1
    assert capsys.readouterr().err == (
        "vdsm-client: Command VM.setTicket with args {'vmID': 'x', 'password': '********'} failed:\n"
        "(code=1, message=Virtual machine does not exist)\n"
    )


def test_what_a_terminal_would_obey_is_not_printed(remote: FakeRemote, capsys: pytest.CaptureFixture[str]) -> None:
    remote.answer = client.ServerError("Host.echo", {}, 100, "bell \a, red \x1b[31m")
    run(remote, "Host", "echo")
    assert "bell \\x07, red \\x1b[31m" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_gluster_enabled_may_stand_anywhere(remote: FakeRemote, place: int) -> None:
    words = ["Host", "echo", "message=x"]
    words.insert(place, "--gluster-enabled")
    assert run(remote, *words) == 0
    assert remote.calls == [("Host.echo", {"message": "x"})]


class TestTarget:
    """Which daemon is called, and how."""

    def test_of_this_machine_is_tls_on_loopback(self, remote: FakeRemote) -> None:
        run(remote, "Host", "ping")
        target = remote.targets[0]
        assert (target.host, target.port, target.use_tls, target.socket) == ("localhost", 54321, True, None)
        assert (target.timeout_s, target.flow_id) == (60.0, None)

    def test_follows_the_configuration_of_the_root(self, remote: FakeRemote, tmp_path: Path) -> None:
        folder = tmp_path / "b/etc/vdsm"
        folder.mkdir(parents=True)
        (folder / "vdsm.conf").write_text(
            "[addresses]\nmanagement_ip = ::1\nmanagement_port = 6001\n[vars]\nssl = no\n"
        )
        run(remote, "--root", str(tmp_path / "b"), "Host", "ping")
        target = remote.targets[0]
        assert (target.host, target.port, target.use_tls, target.root) == ("::1", 6001, False, tmp_path / "b")

    def test_is_the_unix_socket_where_there_is_one(self, remote: FakeRemote, listening: Path) -> None:
        run(remote, "Host", "ping")
        assert remote.targets[0].socket == listening

    @pytest.mark.parametrize("option", [["-a", "localhost"], ["-p", "54321"], ["--insecure"]])
    def test_is_never_the_socket_when_tcp_is_asked_for(
        self, remote: FakeRemote, listening: Path, option: list[str]
    ) -> None:
        run(remote, *option, "Host", "ping")
        assert remote.targets[0].socket is None

    def test_may_be_any_socket(self, remote: FakeRemote) -> None:
        run(remote, "--socket", "/elsewhere", "Host", "ping")
        assert remote.targets[0].socket == Path("/elsewhere")

    def test_elsewhere_does_not_depend_on_the_configuration_here(self, remote: FakeRemote, root: Path) -> None:
        (root / "etc/vdsm").mkdir(parents=True)
        (root / "etc/vdsm/vdsm.conf").write_text("no configuration at all")
        options = ["-a", "other", "--insecure", "--timeout", "2.5", "--flow-id", "f"]
        assert run(remote, *options, "Host", "ping") == 0
        target = remote.targets[0]
        assert (target.host, target.port, target.use_tls) == ("other", 54321, False)
        assert (target.timeout_s, target.flow_id) == (2.5, "f")

    def test_here_needs_a_configuration_that_can_be_read(
        self, remote: FakeRemote, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (root / "etc/vdsm").mkdir(parents=True)
        (root / "etc/vdsm/vdsm.conf").write_text("[addresses]\nmanagement_port = many\n")
        assert run(remote, "Host", "ping") == 1
        assert "management_port" in capsys.readouterr().err

    @pytest.fixture
    def listening(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = root / "run/vdsm"
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)  # the names of sockets are short, those of test folders are not
        with socket.socket(socket.AF_UNIX) as door:
            door.bind("vdsmd.sock")
        return folder / "vdsmd.sock"


def test_a_certificate_that_is_missing_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["Host", "ping"]) == 1
    assert str(root / "etc/pki/vdsm/keys/vdsmkey.pem") in capsys.readouterr().err


@pytest.mark.parametrize(("name", "method"), VERBS)
def test_help_of_every_verb_tells_its_arguments_and_their_json(
    name: str, method: str, remote: FakeRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(remote, name, method, "--help") == 0
    text = capsys.readouterr().out
    parameters = list_namespaces()[name].verbs[method].parameters
    for parameter in parameters:
        assert f"  {parameter.ovirt.name}: " in text
    if parameters:
        skeleton = json.loads(text.partition("-f FILE:\n")[2])
        assert list(skeleton) == [parameter.ovirt.name for parameter in parameters]
    assert remote.targets == []


@pytest.mark.parametrize("words", [["Task"], ["VM", "setTicket"], ["StorageDomain", "create"]])
def test_help_is_as_reviewed(words: list[str], remote: FakeRemote, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(remote, *words, "-h") == 0
    assert capsys.readouterr().out == (GOLDEN / f"help-{'-'.join(words)}.txt").read_text()


def complete(*words: str, incomplete: str) -> list[str]:
    shell = BashComplete(command, {}, "vdsm-client", "_VDSM_CLIENT_COMPLETE")
    return [item.value for item in shell.get_completions(list(words), incomplete)]


def test_shells_complete_namespaces_methods_and_arguments() -> None:
    assert complete(incomplete="St") == ["StoragePool", "StorageDomain"]
    assert complete("Task", incomplete="getS") == ["getStatus"]
    assert complete("--timeout", "3", "VM", "setTicket", "vmID=x", incomplete="") == [
        "password=",
        "ttl=",
        "existingConnAction=",
        "params=",
    ]
    assert "--flow-id" in complete(incomplete="--f")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_its_script(shell: str, remote: FakeRemote, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(remote, "--completion", shell) == 0
    assert "_VDSM_CLIENT_COMPLETE" in capsys.readouterr().out


def test_bash_puts_no_space_after_an_equals_sign() -> None:
    assert "compopt -o nospace" in format_script(click.Group(), "vdsm-client", "bash")
    assert "compopt -o nospace" not in format_script(click.Group(), "vdsm-client", "zsh")
