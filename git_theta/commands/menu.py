"""The list of all commands, each imported only when it is run or asked for help."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import click

from git_theta import __version__
from git_theta.commands.terminal import be_quiet, write_anything
from git_theta.errors import ThetaError
from git_theta.settings import COMPLETE, completing

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(function):  # noqa: ANN001, ANN201
        """Python has this from 3.12 on."""
        return function


NAME = "git theta"
EVERYDAY, TRANSFER, INSPECT, REPAIR = "Everyday", "Transfer", "Inspect", "Set up and repair"


class Entry(NamedTuple):
    """One command: its section in the help (none: hidden), its module, its line of help.

    `module` is "module:name" where the command is not called `command` there.
    """

    section: str
    module: str
    help: str


COMMANDS: dict[str, Entry] = {
    "track": Entry(EVERYDAY, "track", "Keep the files that match a pattern with git-theta."),
    "untrack": Entry(EVERYDAY, "untrack", "Stop keeping the files that match a pattern."),
    "add": Entry(EVERYDAY, "add", "Stage files; say how, or with an update from beside them."),
    "extract": Entry(EVERYDAY, "extract", "Write an adapter from the difference of two versions."),
    "ls-files": Entry(EVERYDAY, "ls_files", "List the files that git-theta keeps."),
    "merge": Entry(EVERYDAY, "merge", "Merge any number of branches, with a strategy."),
    "resolve": Entry(EVERYDAY, "resolve", "Settle a conflict with a strategy."),
    "average": Entry(EVERYDAY, "average", "Average a model's versions along a branch."),
    "apply": Entry(EVERYDAY, "apply", "Add what some commits taught a model, or take it away."),
    "switch": Entry(
        EVERYDAY, "switching:switch", "As git switch; of large files only the difference."
    ),
    "checkout": Entry(EVERYDAY, "switching:checkout", "As git checkout, in the same way."),
    "restore": Entry(EVERYDAY, "switching:restore", "As git restore, in the same way."),
    "push": Entry(TRANSFER, "push", "Upload the objects that a remote lacks."),
    "fetch": Entry(TRANSFER, "fetch", "Download the objects that are missing here."),
    "pull": Entry(TRANSFER, "pull", "Fetch, and write the files that are still manifests."),
    "diff": Entry(INSPECT, "diff", "Show what changed in a model, tensor by tensor."),
    "log": Entry(INSPECT, "log", "List the commits of a model and what each did to it."),
    "blame": Entry(INSPECT, "blame", "Show the commit that last changed each tensor."),
    "show": Entry(INSPECT, "show", "Show the tensors of a file and how each is stored."),
    "du": Entry(INSPECT, "du", "Show what the files cost in storage."),
    "export": Entry(INSPECT, "export", "Write a file as it was in some commit."),
    "scan": Entry(INSPECT, "scan", "Say what a checkpoint would run if somebody loaded it."),
    "stats": Entry(INSPECT, "stats", "Compute statistics of a model that some merges need."),
    "install": Entry(REPAIR, "install", "Tell Git about git-theta; run it once."),
    "uninstall": Entry(REPAIR, "uninstall", "Take back what install did."),
    "doctor": Entry(REPAIR, "doctor", "Check the whole set-up; name a remedy for each fault."),
    "fsck": Entry(REPAIR, "fsck", "Check that every stored byte is here and right."),
    "prune": Entry(REPAIR, "prune", "Remove stored objects that no manifest names any more."),
    "migrate": Entry(REPAIR, "migrate", "Move files into git-theta over history, or out of it."),
    "completion": Entry(REPAIR, "completion", "Print the completion script of a shell."),
    "filter-process": Entry("", "internal", "Run by Git: the filter, for many files."),
    "clean": Entry("", "internal", "Run by Git: a file to its manifest."),
    "smudge": Entry("", "internal", "Run by Git: a manifest to its file."),
    "merge-driver": Entry("", "merge_driver", "Run by Git when both sides changed a file."),
    "diff-driver": Entry("", "internal", "Run by git diff for a tracked file."),
    "pre-push": Entry("", "pre_push", "Run by Git before a push."),
}


class Menu(click.Group):
    """A group whose commands are imported on first use."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for name, entry in COMMANDS.items() if entry.section]

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        place, _, name = entry.module.partition(":")
        module = import_module(f"git_theta.commands.{place}")
        found: click.Command = getattr(module, name or "command")
        below = found.commands.values() if isinstance(found, click.Group) else ()
        for one in (found, *below):
            if all(parameter.name != "quiet" for parameter in one.params):
                one.params.extend(_voice_options())
        return found

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = _similar(args[0])
            if not near:
                raise
            said = f"{error.format_message()} Did you mean {near!r}?"
            raise click.UsageError(said, ctx) from error

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for section in (EVERYDAY, TRANSFER, INSPECT, REPAIR):
            rows = [(n, entry.help) for n, entry in COMMANDS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows, col_spacing=3)


def _similar(word: str) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, COMMANDS, n=1)), "")


def _voice_options() -> Iterable[click.Parameter]:
    def quieten(_context: click.Context, _option: click.Parameter, value: bool) -> None:
        if value:
            be_quiet()

    yield click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=quieten,
        help="Say only what was asked for, and failures.",
    )
    yield click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        help="Show where a failure came from.",
    )


_ABOUT = """Version model checkpoints with Git, tensor by tensor.

\b
Once per machine:   git theta install
In a repository:    git theta track '*.safetensors'
Then as always:     git add, commit, status, checkout, push, clone
"""
_MORE = "git theta COMMAND -h explains one command. If something is wrong: git theta doctor"

MENU = Menu(
    "git-theta",
    help=_ABOUT,
    epilog=_MORE,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        *_voice_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=lambda context, _option, value: _show_version(context) if value else None,
            help="Print the version.",
        ),
    ],
)


def _show_version(context: click.Context) -> None:
    click.echo(f"git-theta {__version__}")
    context.exit()


def run(words: list[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        ThetaError: as the command does; a misused command line is one too.
    """
    write_anything()
    if completing():
        MENU.main(args=words, prog_name=NAME, complete_var=COMPLETE)
    try:
        with MENU.make_context(NAME, words) as context:
            code: object = MENU.invoke(context)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        raise MisusedError(error) from error
    except click.exceptions.Exit as error:
        return error.exit_code
    return code if isinstance(code, int) else 0


class MisusedError(ThetaError):
    """The command line does not fit the command."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        context = error.ctx
        path = context.command_path if context else NAME
        super().__init__(error.format_message(), hint=f"{path} -h")
