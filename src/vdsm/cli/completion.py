"""Completion scripts for shells: click's own, told that `name=` wants no space after it."""

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from vdsm.api.declare import Verb

SHELLS = ("bash", "zsh", "fish")
_NO_SPACE = "    [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n\n    return 0\n"


def format_script(command: click.Command, program: str, shell: str) -> str:
    """The script that a shell reads to complete the program's words: `source <(vdsm-client --completion bash)`."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    shell_class = get_completion_class(shell)
    if shell_class is None:
        raise ValueError(f"no completion for the shell {shell!r}")
    # Not BashComplete's own, which starts a bash to ask for its version: every bash of today is new enough.
    script = ShellComplete.source(shell_class(command, {}, program, variable))
    return script.replace("    return 0\n", _NO_SPACE, 1) if shell == "bash" else script


def complete_argument(verb: Verb, given: tuple[str, ...], incomplete: str) -> list[CompletionItem]:
    """The arguments of a verb that begin so and are not given yet, each with `=`."""
    taken = {word.partition("=")[0] for word in given}
    return [
        CompletionItem(f"{parameter.ovirt.name}=", help=parameter.doc)
        for parameter in verb.parameters
        if parameter.ovirt.name.startswith(incomplete) and parameter.ovirt.name not in taken
    ]
