"""`vdsm-client`: every verb of the surface from a shell (facts §1.10); JSON for programs, tables on a terminal.

Its words come from the catalogue; what a verb does, and whether its arguments fit, is the daemon's to say.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import click
from click.shell_completion import CompletionItem
from msgspec import Struct

from vdsm import __version__, client
from vdsm.api.catalogue import GROUPS
from vdsm.api.declare import Verb, list_verbs
from vdsm.cli.completion import SHELLS, complete_argument, format_script
from vdsm.cli.group import CONTEXT, Group, root_option
from vdsm.cli.units import format_printable
from vdsm.core.errors import NodeError
from vdsm.local import LocalDaemon, find_local_daemon, find_paths

PROGRAM = "vdsm-client"
_WIDTH_IN_FILES = 140
"""Columns of a table that does not go to a terminal."""


class Failure(Exception):
    """Ends the program with status 1 and one message."""


class Remote(Protocol):
    """What the commands need of a connection."""

    def call(self, method: str, params: Mapping[str, object]) -> object:
        """The decoded result of `Namespace.method`; raises the errors of `vdsm.client`."""


class Target(Struct, frozen=True):
    """Which daemon to call and how: through its unix socket when there is one, else host and port."""

    host: str
    port: int
    use_tls: bool
    socket: Path | None
    root: Path | None
    timeout_s: float
    flow_id: str | None


Connect = Callable[[Target], AbstractContextManager[Remote]]


class Session(Struct, frozen=True):
    """What the options before the namespace said."""

    target: Target
    file: str | None
    as_table: bool
    connect: Connect


class Namespace(Struct):
    """One namespace of the command line: the class in the names of verbs."""

    doc: str
    verbs: dict[str, Verb]


@contextmanager
def open_remote(target: Target) -> Iterator[Remote]:
    """A connection to the daemon; raises client.ConnectionError."""
    with (
        client.connect(
            target.host,
            target.port,
            use_tls=target.use_tls,
            timeout=target.timeout_s,
            socket_path=target.socket,
            root=target.root,
        ) as remote,
        remote.flow(target.flow_id) if target.flow_id else nullcontext(),
    ):
        yield remote


def main(argv: Sequence[str] | None = None, connect: Connect = open_remote) -> int:
    """Run one command line and return its exit status: 0, 1 (the call failed) or 2 (the words make no sense)."""
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--gluster-enabled"]
    try:
        command.main(words, prog_name=PROGRAM, standalone_mode=False, obj=connect)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return 2
    except click.Abort:
        return 130
    except (Failure, client.Error, NodeError) as error:
        _print_error(str(error))
        return 1
    except BrokenPipeError:
        # The reader has gone; the interpreter must not stumble over it again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


@cache
def list_namespaces() -> dict[str, Namespace]:
    """The catalogue by class and method, as the command line and JSON-RPC name them."""
    namespaces: dict[str, Namespace] = {}
    for group in GROUPS:
        for verb in list_verbs(group):
            name, _, method = verb.ovirt.partition(".")
            namespaces.setdefault(name, Namespace(group.__doc__ or "", {})).verbs[method] = verb
    return namespaces


class _Surface(Group):
    kind = "namespace"

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(list_namespaces())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        namespace = list_namespaces().get(cmd_name)
        return None if namespace is None else _Methods(cmd_name, namespace)


class _Methods(Group):
    kind = "method"

    def __init__(self, name: str, namespace: Namespace) -> None:
        super().__init__(
            name,
            help=namespace.doc,
            callback=_refuse_missing_method,
            invoke_without_command=True,
            options_metavar="[-h]",
            subcommand_metavar="<method> [name=value ...]",
        )
        self._namespace = namespace

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._namespace.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self._namespace.verbs.get(cmd_name)
        return None if verb is None else _Method(cmd_name, verb)


class _Method(click.Command):
    def __init__(self, name: str, verb: Verb) -> None:
        self._verb = verb
        argument = click.Argument(["arguments"], nargs=-1, metavar="[name=value ...]", shell_complete=self._complete)
        super().__init__(name, help=verb.doc, callback=self._run, params=[argument], options_metavar="[-h]")

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from vdsm.cli.skeleton import format_arguments, format_skeleton

        self.format_usage(ctx, formatter)
        formatter.write(f"\n{self._verb.doc}\n")
        if self._verb.parameters:
            formatter.write("\nArguments:\n" + "".join(f"  {line}\n" for line in format_arguments(self._verb)))
            formatter.write(f"\nAs JSON, for -f FILE:\n{format_skeleton(self._verb)}\n")

    def _complete(self, ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_argument(self._verb, ctx.params.get("arguments") or (), incomplete)

    def _run(self, arguments: tuple[str, ...]) -> None:
        session: Session = click.get_current_context().obj
        params = _read_file(session.file, arguments) if session.file is not None else _parse_arguments(arguments)
        with session.connect(session.target) as remote:
            result = remote.call(self._verb.ovirt, params)
        if session.as_table:
            _print_table(self._verb, result)
        else:
            print(json.dumps(result, indent=4, sort_keys=True))


def _refuse_missing_method() -> None:
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        raise Failure(f"a method of {context.info_name} is missing; {PROGRAM} {context.info_name} -h lists them")


def _print_script(context: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    if shell is not None:
        click.echo(format_script(context.command, PROGRAM, shell))
        context.exit()


@click.group(
    cls=_Surface,
    invoke_without_command=True,
    subcommand_metavar="<Namespace> <method> [name=value ...]",
    context_settings=CONTEXT,
)
@click.option(
    "-a",
    "--host",
    metavar="HOST",
    help="The host to call; without it this machine's daemon, through its socket if it has one.",
)
@click.option(
    "-p",
    "--port",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    help="Its port, 54321 unless this machine's configuration says otherwise.",
)
@click.option("--insecure", is_flag=True, help="Plain TCP, without TLS.")
@click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="Call through this unix socket.")
@root_option
@click.option("--flow-id", metavar="ID", help="Goes into the daemon's log lines about this call.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=client.DEFAULT_TIMEOUT_S,
    show_default=True,
    help="How long to wait for the answer.",
)
@click.option(
    "-f",
    "--file",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="A JSON object with the arguments, for those that are not text; - reads it from standard input.",
)
@click.option(
    "--gluster-enabled",
    is_flag=True,
    expose_value=False,
    help="Accepted anywhere and ignored: the management of Gluster is not served.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON even on a terminal.")
@click.option("--table", is_flag=True, help="Print tables even into a file or a pipe.")
@click.option(
    "--completion",
    type=click.Choice(SHELLS),
    is_eager=True,
    expose_value=False,
    callback=_print_script,
    help="Print the completion script of a shell and exit.",
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def command(
    context: click.Context,
    host: str | None,
    port: int | None,
    insecure: bool,
    socket: Path | None,
    root: Path | None,
    flow_id: str | None,
    timeout: float,
    file: str | None,
    as_json: bool,
    table: bool,
) -> None:
    """Call a verb of the virtualization daemon.

    Options stand before the namespace. Values given as name=value are text; use -f for numbers, lists and the like.
    """
    if context.invoked_subcommand is None:
        raise Failure(f"a namespace is missing; {PROGRAM} -h lists them")
    if as_json and table:
        raise click.UsageError("--json and --table exclude each other")
    if socket is not None and (host is not None or port is not None or insecure):
        raise click.UsageError("--socket excludes --host, --port and --insecure")
    paths = find_paths(root)
    if socket is None and host is None and port is None and not insecure and paths.socket.is_socket():
        socket = paths.socket
    # The configuration here says nothing of other hosts, and must not be in the way of calling them.
    known = find_local_daemon(paths) if host is None and socket is None else LocalDaemon("", client.DEFAULT_PORT, True)
    target = Target(
        host or known.host, port or known.port, not insecure and known.use_tls, socket, root, timeout, flow_id
    )
    as_table = table or (sys.stdout.isatty() and not as_json)
    context.obj = Session(target, file, as_table, context.obj)


def _parse_arguments(arguments: tuple[str, ...]) -> dict[str, object]:
    params: dict[str, object] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name or not equals:
            raise click.UsageError(f"{argument!r} is not of the form name=value", click.get_current_context())
        params[name] = value
    return params


def _read_file(path: str, arguments: tuple[str, ...]) -> dict[str, object]:
    if arguments:
        raise click.UsageError("-f excludes name=value arguments", click.get_current_context())
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        params = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise click.UsageError(
            f"cannot read the arguments from {path}: {error}", click.get_current_context()
        ) from error
    if not isinstance(params, dict):
        raise click.UsageError(f"{path} does not hold a JSON object", click.get_current_context())
    return params


def _print_table(verb: Verb, result: object) -> None:
    from rich.console import Console

    from vdsm.cli.tables import Json, print_answer

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_IN_FILES
    print_answer(Console(width=width, highlight=False), verb, cast(Json, result))


def _print_error(text: str) -> None:
    print(f"{PROGRAM}: {format_printable(text)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
