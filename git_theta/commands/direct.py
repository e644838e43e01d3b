"""Large files written by the filter itself, after Git is done with them.

Git holds whatever a smudge filter answers in memory, whole, before it writes the file: a gigabyte
of fresh memory for a gigabyte of model. So Git gets the manifest, which stands for the same blob,
and the filter writes the file over it when Git closes the pipe at its end, which Git waits for.
That is done only for commands known to end then, with no hook of their own still to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from git_theta.commands.session import Session, say_left
from git_theta.core.checkpoint import proofs
from git_theta.core.manifest import Manifest
from git_theta.errors import ThetaError
from git_theta.repo.caller import git_command, may_delay
from git_theta.repo.hooks import directory

if TYPE_CHECKING:
    from git_theta.commands.pull import Pending

# Each with the hook that Git runs before it ends, which would see the manifest. Commands that go
# on to run the user's programs (rebase --exec) or to read the files are not among them.
_ENDING = {
    "checkout": "post-checkout",
    "switch": "post-checkout",
    "restore": "post-checkout",
    "clone": "post-checkout",
    "merge": "post-merge",
    "reset": "",
}


class DirectFiles:
    """The files of one Git command that are written at its end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._texts: dict[str, bytes] = {}

    def take(self, path: str, text: bytes, manifest: Manifest, asked: Mapping[str, str]) -> bool:
        """Say whether a file will be written at the end; Git then gets the manifest."""
        small = manifest.size < self._session.settings.direct_from
        if small or manifest.plugins or "can-delay" not in asked or not self._ends_soon():
            return False
        self._texts[path] = text
        return True

    def _ends_soon(self) -> bool:
        command = git_command()
        if not command or command[0] not in _ENDING or not may_delay():
            return False
        hook = _ENDING[command[0]]
        return not hook or not (self._hooks / hook).exists()

    @cached_property
    def _hooks(self) -> Path:
        """Where Git looks for hooks: asked once, however many files there are."""
        return directory(self._session.repo)

    def finish(self) -> None:
        """Write the files, if they still are the manifests that were left."""
        if not self._texts:
            return
        from git_theta.commands.pull import find_pending

        pathspecs = [f":(top,literal){path}" for path in self._texts]
        waiting, failures = find_pending(self._session.repo, pathspecs)
        ours = [one for one in waiting if self._texts.get(one.entry.path) == one.text]
        write(self._session, ours, failures)


def write(
    session: Session, waiting: Sequence[Pending], failures: list[tuple[str, ThetaError]]
) -> None:
    """Write files whose manifests Git has put into the work tree, and say which could not be."""
    from git_theta.commands.pull import pull

    for pending in pull(session, waiting, failures):
        if pending.manifest.digest:
            session.catalog.keep_manifest(pending.manifest.digest, pending.text)
        session.catalog.keep_proven(proofs(pending.manifest))
    for path, error in failures:
        say_left(path, error)
