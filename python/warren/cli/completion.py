"""`warrenctl completion`: scripts that let a shell complete commands and flags."""

from __future__ import annotations

from typing import Final

import click

from warren.cli.common import Command

__all__ = ["completion"]

_VARIABLE: Final = "_WARRENCTL_COMPLETE"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script for a shell.

    \b
    bash:  source <(warrenctl completion bash)
    zsh:   source <(warrenctl completion zsh)
    fish:  warrenctl completion fish | source
    """
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    assert maker is not None
    root = ctx.find_root()
    script = maker(root.command, {}, root.info_name or "warrenctl", _VARIABLE)
    # Not `source()`: for bash that looks for a bash on this machine, to judge its age.
    click.echo(script.source_template % script.source_vars())
