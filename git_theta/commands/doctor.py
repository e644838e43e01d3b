"""`git theta doctor`: the whole set-up, with a remedy for each fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from git_theta.commands import checks, findings
from git_theta.commands.findings import Finding
from git_theta.commands.options import JSON_OPTION
from git_theta.commands.terminal import count, note, say, say_json, say_painted
from git_theta.errors import NotTrackedError
from git_theta.repo.gitrepo import Repo

_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


@click.command()
@JSON_OPTION
def command(as_json: bool) -> int:
    """Check programs, configuration, hooks, attributes, files and the object store.

    Each fault comes with a remedy. Ends with 1 if there is a fault, with 0 if there is none;
    changes nothing.
    """
    found = list(diagnose())
    faults = sum(finding.status == "fault" for finding in found)
    if as_json:
        say_json({"faults": faults, "findings": [asdict(finding) for finding in found]})
        return 1 if faults else 0
    for finding in found:
        say_painted(
            f"{finding.status:8}{finding.check}: {finding.message}", _COLOURS[finding.status]
        )
        if finding.remedy:
            say(f"        remedy: {finding.remedy}")
    note(f"{count(faults, 'fault')} found." if faults else "No faults found.")
    return 1 if faults else 0


def diagnose() -> Iterator[Finding]:
    """Look at everything: the machine, and the repository around us if there is one."""
    try:
        repo: Repo | None = Repo.find()
    except NotTrackedError:
        repo = None
    yield from findings.check_git()
    yield from findings.check_lfs(repo)
    yield from findings.check_program()
    yield from findings.check_loops()
    yield from findings.check_configuration(repo)
    if repo is None:
        yield Finding(check="repository", status="ok", message="none here; only the machine")
        return
    subject = checks.Subject(repo)
    yield from checks.check_settings(subject)
    yield from checks.check_hooks(subject)
    yield from checks.check_attributes(subject)
    yield from checks.check_files(subject)
    yield from checks.check_store(subject)
    yield from checks.check_plugins(subject)
    repo.close()
