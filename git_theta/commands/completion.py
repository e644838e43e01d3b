"""`git theta completion`: scripts for the shells."""

from __future__ import annotations

import sys

import click

# Git's own completion calls the function `_git_theta` with the words in `words`, the cursor's in
# `cword`, and (since 2.31) the place of "theta" among them in `__git_cmd_idx`.
_BASH_FOR_GIT = """
_git_theta() {
    local at="${__git_cmd_idx:-1}" IFS=$'\\n' kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case "$kind" in
            plain) COMPREPLY+=("$value") ;;
            file | dir) compopt -o default 2>/dev/null ;;
        esac
    done < <(IFS=' ' COMP_WORDS="git-theta ${words[*]:at+1}" COMP_CWORD=$((cword - at)) \\
        _GIT_THETA_COMPLETE=bash_complete git-theta)
}
"""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: put   eval "$(git theta completion bash)"   into ~/.bashrc
    zsh:  put   eval "$(git theta completion zsh)"    into ~/.zshrc
    fish: run   git theta completion fish > ~/.config/fish/completions/git-theta.fish

    In bash, `git theta <TAB>` completes too where Git's own completion is loaded.
    """
    from click.shell_completion import get_completion_class

    from git_theta.commands.menu import MENU
    from git_theta.settings import COMPLETE

    kind = get_completion_class(shell)
    if kind is None:  # Choice has let only known shells through
        raise click.UsageError(f"no completion for {shell}")
    # bash is asked for its version by click, which would fail where bash is not installed
    source = kind(MENU, {}, "git-theta", COMPLETE)
    text = source.source_template % source.source_vars()
    sys.stdout.write(text + (_BASH_FOR_GIT if shell == "bash" else ""))
