"""A look at what is being added: would it run code when somebody loads it?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from git_theta.commands.session import Session, say
from git_theta.errors import RefusedError
from git_theta.formats.suspects import may_run
from git_theta.repo.streams import FileReader, open_regular

if TYPE_CHECKING:
    from git_theta.formats.scanning import Finding

_SHOWN = 5


def look_at(session: Session, path: str, size: int) -> None:
    """Look at a work-tree file that is being added, as `theta.scan` says.

    `size` is what Git handed over: a file of another size is not the one that is added.

    Raises:
        RefusedError: it would run something, and the policy is to refuse that.
    """
    handle = None if session.settings.scan == "off" else open_regular(session.path(path))
    if handle is None:
        return
    try:
        reader = FileReader(handle)
        if reader.size != size or not may_run(reader.read(0, 4096)):
            return
        from git_theta.formats.scanning import scan  # most files are of kinds that cannot run

        findings = scan(reader)
    finally:
        os.close(handle)
    if not findings:
        return
    told = _summed(findings)
    if session.settings.scan == "refuse":
        raise RefusedError(
            f"loading this file would run code: {told}",
            hint="git theta scan shows all of it; theta.scan=warn lets it in",
        )
    say(path, f"whoever loads this file runs code: {told}", "git theta scan shows all of it")


def _summed(findings: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(f"{finding.what} ({finding.verdict})" for finding in findings))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
