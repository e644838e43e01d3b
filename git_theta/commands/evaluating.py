"""Merges judged by a command of the user: a gate for one, a choice among several.

The command is the one on the command line, nothing else: not one from a file, nor from a recipe. It
is given the merged file and says one number. What it said is written down and never run again.
"""

from __future__ import annotations

import itertools
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from git_theta.commands.deciding import rules_from
from git_theta.commands.export import fetch_missing, write_whole
from git_theta.commands.jobs import Job
from git_theta.commands.merge_options import check
from git_theta.commands.merging import merge_manifests
from git_theta.commands.options import standing_directory
from git_theta.commands.session import Session
from git_theta.commands.sides import Outcome, Wanted
from git_theta.commands.strategies import parse_value, split_values
from git_theta.commands.terminal import count, note, printable
from git_theta.core.checkpoint import rebuild
from git_theta.core.identity import identity
from git_theta.core.recipe import Instructions
from git_theta.errors import MergeError, UsageError
from git_theta.repo import keeping
from git_theta.settings import environment

STRATEGY = "strategy"
Settings = Mapping[str, Any]


@dataclass(kw_only=True)
class Trial:
    """One way to merge all files, and what the command said of it (None: it failed)."""

    settings: Settings
    instructions: list[Instructions]
    score: float | None = None

    @property
    def shown(self) -> str:
        """The settings as the user would give them."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items()) or "the merge"


@dataclass(kw_only=True)
class Judge:
    """Merges files in several ways and asks a command about each."""

    session: Session
    command: str
    jobs: Sequence[Job]
    known: dict[tuple[str, ...], float | None] = field(default_factory=dict)

    def choose(self, tries: Sequence[str]) -> None:
        """Give each job the instructions of the best trial, and a report of all trials.

        Raises:
            UsageError: what is to be tried does not fit the strategy.
            MergeError: the command found fault with all of them.
        """
        trials = self._trials(tries)
        for trial in trials:
            trial.score = self._score(trial)
            said = "failed" if trial.score is None else f"{trial.score:g}"
            note(f"git theta: {printable(trial.shown)}: {said}")
        scores = [trial.score for trial in trials if trial.score is not None]
        if not scores:
            failed = count(len(trials), "merge")
            raise MergeError(
                f"the command of --eval failed for {failed}: nothing was committed",
                hint="it has to exit with 0, and the last line it prints has to be a number",
            )
        best = next(trial for trial in trials if trial.score == max(scores))
        if len(trials) > 1:
            note(f"git theta: the best of {len(trials)}: {printable(best.shown)}")
        report = {
            "command": self.command,
            "score": best.score,
            "tried": [{"settings": dict(t.settings), "score": t.score} for t in trials],
        }
        for job, instructions in zip(self.jobs, best.instructions, strict=True):
            job.decision = replace(job.decision, instructions=instructions)
            job.evaluation = report

    def _trials(self, tries: Sequence[str]) -> list[Trial]:
        """Every combination of what is to be tried, checked before anything is computed."""
        named = dict(map(_values, tries))
        trials = []
        for values in itertools.product(*named.values()):
            settings = dict(zip(named, values, strict=True))
            varied = [_varied(job.decision.instructions, settings) for job in self.jobs]
            trials.append(Trial(settings=settings, instructions=varied))
        return trials

    def _score(self, trial: Trial) -> float | None:
        store = self.session.store
        with keeping.directory_in(store.scratch) as place:
            made: dict[Path, Outcome] = {}
            for job, instructions in zip(self.jobs, trial.instructions, strict=True):
                file = place / job.path if len(self.jobs) > 1 else place / Path(job.path).name
                file.parent.mkdir(parents=True, exist_ok=True)
                found = self._merged(job, instructions, file)
                if found is None:
                    return None
                made[file] = found
            key = tuple(identity(outcome.manifest) for outcome in made.values() if outcome.manifest)
            if key not in self.known:
                for file, outcome in made.items():
                    self._write(outcome, file)
                self.known[key] = self._ask(next(iter(made)) if len(made) == 1 else place)
            return self.known[key]

    def _merged(self, job: Job, instructions: Instructions, file: Path) -> Outcome | None:
        try:
            wanted = Wanted(draft=file)
            outcome = merge_manifests(self.session, job.base, job.models, instructions, wanted)
        except MergeError as error:
            note(f"git theta: {printable(job.path)}: {error}")
            return None
        if outcome.manifest is None:
            note(f"git theta: {printable(job.path)}: {_first_conflict(outcome)}")
            return None
        return outcome

    def _write(self, outcome: Outcome, file: Path) -> None:
        manifest, session = outcome.manifest, self.session
        if outcome.draft is not None or manifest is None:
            return  # it was written while it was computed
        fetch_missing(session, manifest)
        threads = session.settings.threads
        write_whole(file, rebuild(manifest, session.store.lend, session.plugins, threads=threads))

    def _ask(self, model: Path) -> float | None:
        """What the command says of a model: the number on its last line, None where it failed."""
        words = ["sh", "-c", self.command]
        if "$MODEL" not in self.command and "${MODEL" not in self.command:
            words = ["sh", "-c", f'{self.command} "$MODEL"']
        done = subprocess.run(
            words,
            cwd=standing_directory(self.session.repo),
            env=environment() | {"MODEL": str(model)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            note(f"git theta: the command of --eval exited with {done.returncode}")
            return None
        lines = [line.strip() for line in done.stdout.decode(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "")
        try:
            score = float(last)
        except ValueError:
            note(f"git theta: the last line of --eval is no number: {printable(last[:80])!r}")
            return None
        return None if math.isnan(score) else score


def _first_conflict(outcome: Outcome) -> str:
    return f"{outcome.conflicts[0].unit.name}: {outcome.conflicts[0].reason}"


def _values(text: str) -> tuple[str, list[Any]]:
    key, equals, listed = text.partition("=")
    values = [parse_value(part) for part in split_values(listed)]
    if not key or not equals or not values:
        raise UsageError(f"{text!r} names nothing to try", hint="write --try scale=0.5,1,1.5")
    return key, values


def _varied(instructions: Instructions, settings: Settings) -> Instructions:
    """The same instructions with other parameters, or another strategy, for most tensors."""
    rules = list(instructions.rules)
    whole = next((rule for rule in rules if rule.pattern == "*"), None)
    if STRATEGY in settings:
        named = rules_from(str(settings[STRATEGY]))
        if not named:
            raise UsageError("--try strategy= needs names", hint="git theta merge --list")
        rules = [rule for rule in rules if rule is not whole]
        whole = named[0]
        rules.append(whole)
    others = {key: value for key, value in settings.items() if key != STRATEGY}
    if others and whole is None:
        raise UsageError("--try needs --strategy", hint="name the strategy that it is for")
    if whole is not None:
        changed = replace(whole, parameters={**whole.parameters, **others})
        check(changed)
        rules = [changed if rule is whole else rule for rule in rules]
    return replace(instructions, rules=tuple(rules))
