"""A click group as our programs show it: whole sentences in its list, and a hint for a word that is misspelt."""

import difflib

import click


class Group(click.Group):
    """`kind` says what its words are; `unknown_status` is the exit status for a word that is none of them."""

    kind = "command"
    unknown_status = 2

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 3, 0.5)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            error = _UnknownWord(f"no such {self.kind}: {args[0]!r}{hint}", ctx)
            error.status = self.unknown_status
            raise error
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section(f"{self.kind.capitalize()}s"):
            formatter.write_dl([(name, _first_paragraph(c.help)) for name, c in commands.items() if c and c.help])


class _UnknownWord(click.UsageError):
    status = 2


def get_status(error: click.UsageError) -> int:
    """The exit status of a command line that makes no sense."""
    return error.status if isinstance(error, _UnknownWord) else error.exit_code


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())
