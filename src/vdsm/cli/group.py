"""A click group as our programs show it: whole sentences in its list, and a hint for a word that is misspelt."""

import difflib
from pathlib import Path

import click

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
"""Of a program; its commands inherit it."""
ROOT_HELP = "The node's root, where all of its folders are (VDSM_ROOT, /)."
root_option = click.option(
    "--root", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), envvar="VDSM_ROOT", help=ROOT_HELP
)


class UnknownWord(click.UsageError):
    """None of the group's words."""


class Group(click.Group):
    """`kind` says what its words are."""

    kind = "command"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 3, 0.5)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            raise UnknownWord(f"no such {self.kind}: {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section(f"{self.kind.capitalize()}s"):
            formatter.write_dl([(name, _first_paragraph(c.help)) for name, c in commands.items() if c and c.help])


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())
