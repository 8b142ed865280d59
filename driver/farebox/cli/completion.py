"""`farebox completion`: the script that teaches a shell the commands and options."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in that shell.

    \b
    Examples:
      echo 'eval "$(farebox completion bash)"' >> ~/.bashrc
      echo 'eval "$(farebox completion zsh)"' >> ~/.zshrc
      farebox completion fish > ~/.config/fish/completions/farebox.fish
    """
    kind = _SHELLS[shell]
    script = kind(context.find_root().command, {}, "farebox", "_FAREBOX_COMPLETE")
    # Not source(), which for bash starts one to ask its version: the shell may be on another machine.
    click.echo(kind.source_template % script.source_vars())
