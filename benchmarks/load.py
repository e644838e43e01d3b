"""A long history of many tensors: a thousand commits of a thousand tensors, made by real adds."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.report import Row, Section, table
from benchmarks.sandbox import RSS_UNIT, Cost, Sandbox, in_child, size

NAME = "model.safetensors"
COMMITS = TENSORS = 1000
SHAPE = (16, 16)
CHANGED = 10
SCAN = 2.0
_STEP = 100


def main() -> int:
    """`make REPOSITORY COMMITS`: commit version after version, and tell what each hundred cost."""
    _, repo, count = sys.argv[1:]
    print(json.dumps(_make(Path(repo), int(count))))
    return 0


def _make(path: Path, count: int) -> list[dict[str, float]]:
    from git_theta.commands.session import Session
    from git_theta.commands.staging import add_file, stage
    from git_theta.repo.gitrepo import Repo, run_git

    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.02, (TENSORS, *SHAPE)).astype("<f4")
    session = Session(Repo.find(path))
    found, began = [], time.process_time()
    for number in range(count):
        if number:
            chosen = rng.choice(TENSORS, CHANGED, replace=False)
            weights[chosen] += rng.normal(0, 1e-4, (CHANGED, *SHAPE)).astype("<f4")
        (path / NAME).write_bytes(HEADER + weights.tobytes())
        stage(session.repo, [add_file(session, NAME, lambda _: None)])
        run_git(["commit", "-q", "--no-verify", "-m", f"version {number}"], cwd=path)
        if (number + 1) % _STEP == 0 or number + 1 == count:
            now = time.process_time()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
            found.append({"commits": number + 1, "cpu": (now - began) / _STEP, "peak": peak})
            began = now
    session.close()
    return found


def _header() -> bytes:
    item = int(np.prod(SHAPE)) * 4
    header = {
        f"model.layers.{n // 10}.part{n % 10}.weight": {
            "dtype": "F32",
            "shape": SHAPE,
            "data_offsets": [n * item, (n + 1) * item],
        }
        for n in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


HEADER = _header()


def _steps(box: Sandbox, repo: Path, rounds: int) -> dict[str, Cost]:
    """What each command costs in the finished repository; of several rounds the quickest."""
    remote = box.root / "remote.git"
    box.run("git", "init", "-q", "--bare", str(remote), cwd=box.root)
    box.run("git", "remote", "add", "origin", str(remote), cwd=repo)
    (repo / NAME).write_bytes((repo / NAME).read_bytes()[:-4] + b"abcd")
    found = {"add": box.timed("git", "add", NAME, cwd=repo)}
    box.run("git", "commit", "-q", "-m", "last", cwd=repo)
    (repo / NAME).touch()
    found["status"] = box.timed("git", "status", "--short", cwd=repo)
    asked = repo / ".git" / "asked"
    head = box.run("git", "rev-parse", "HEAD", cwd=repo).output.strip()
    asked.write_text(f"refs/heads/main {head} refs/heads/main {'0' * len(head)}\n")
    first = ("sh", "-c", f"git theta pre-push origin {remote} < .git/asked")
    found["first push"] = box.timed(*first, cwd=repo)
    for _ in range(rounds):
        again = {
            "scan": box.timed(*first, cwd=repo),
            "log": box.timed("git", "theta", "log", NAME, cwd=repo),
            "prune": box.timed("git", "theta", "prune", "--dry-run", cwd=repo),
            "fsck": box.timed("git", "theta", "fsck", cwd=repo),
        }
        for name, cost in again.items():
            if name not in found or cost.wall < found[name].wall:
                found[name] = cost
    return found


WORK = {
    "add": "git add of one more version",
    "status": "git status, the file touched",
    "first push": "pre-push: scan, and copying all objects to a directory",
    "scan": "pre-push: scan of 1,000 new commits, the objects being there",
    "log": "git theta log",
    "prune": "git theta prune --dry-run",
    "fsck": "git theta fsck",
}


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """A repository of a thousand commits, and what the commands that look at all of it cost."""
    count = max(2 * _STEP, int(COMMITS * scale))
    repo = box.repository("load", "theta")
    grown = json.loads(in_child("benchmarks.load", "make", str(repo), str(count)))
    stored = size(repo / ".git" / "theta" / "lfs.git")
    loose = size(repo / ".git" / "objects")
    found = _steps(box, repo, rounds)
    lines = [
        f"| {work} | {found[key].wall:.2f} s | {found[key].cpu:.2f} s "
        f"| {found[key].peak / 1e6:.0f} MB |"
        for key, work in WORK.items()
    ]
    scan = found["scan"].wall
    shown = f"{scan:.2f} s < {SCAN} s"
    rows = [Row(WORK["scan"], f"{count} commits", "-", f"{scan:.2f} s", scan, SCAN, shown, True)]
    rows += _flat(grown)
    text = table("command | wall: | CPU: | largest process:", lines)
    text += "\n" + table(
        "commits so far | CPU of one add: | memory of the process:",
        [
            f"| {one['commits']:,.0f} | {one['cpu'] * 1e3:.1f} ms | {one['peak'] / 1e6:.0f} MB |"
            for one in grown
        ],
    )
    text += f"\nStored: {stored / 1e6:.1f} MB of objects, {loose / 1e6:.1f} MB of Git's own.\n\n"
    text += table("bar | of | Git LFS | git-theta: | against the bar |", [r.line() for r in rows])
    return Section(text, rows)


def _flat(grown: list[dict[str, float]]) -> list[Row]:
    """The last hundred commits against the second: the first have no history to look at."""
    early, late = grown[1], grown[-1]
    rows = []
    for key, what, unit in (("cpu", "CPU of one add", 1e-3), ("peak", "memory", 1e6)):
        ratio = late[key] / early[key]
        ours = f"{late[key] / unit:.1f} {'ms' if key == 'cpu' else 'MB'}"
        bar = f"{ratio:.2f} <= 1.25 times that of commits 101 to 200"
        rows.append(Row(what, f"{late['commits']:,.0f} commits", "-", ours, ratio, 1.25, bar))
    return rows


if __name__ == "__main__":
    sys.exit(main())
