"""Gives `--json` to every command that has none of its own: what it would print, as one JSON document."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from featcache import console


def give_json(command: Any) -> Any:
    """The command tree itself, every command of it with `--json`; a command's own option of that name stays."""
    option = next(option for option in typer.main.get_command(_model).params if "--json" in option.opts)
    _give(command, option)
    return command


def _give(command: Any, option: Any) -> None:
    inner = getattr(command, "commands", {})
    for one in inner.values():
        _give(one, option)
    if not inner and not any("--json" in own.opts for own in command.params):
        command.params.append(option)


def _collect(wanted: bool) -> None:
    if wanted:
        console.collect()


_model = typer.Typer(add_completion=False)
_HELP = "Print as JSON: the lines and tables that would be shown."


@_model.command()
def _has_json(
    json: Annotated[bool, typer.Option("--json", expose_value=False, callback=_collect, help=_HELP)] = False,
) -> None:
    """Never run: typer makes the option of it that the others get."""
