"""Asks an LFS server over HTTP which objects it has, without downloading them.

Git LFS has no command for that. This is a shortcut for the plain case: where the server is
reached in another way, or wants to know more than we can tell it, the answer is "unknown", and
Git LFS is asked to fetch instead. Nothing here ever asks the user.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import SplitResult, urlsplit, urlunsplit

from git_theta.errors import ThetaError
from git_theta.repo.gitrepo import run_git
from git_theta.repo.shadow import Shadow, batches

_BATCH = 100
_PATIENCE = 30.0
_TYPE = "application/vnd.git-lfs+json"


def lacking(shadow: Shadow, remote: str, wanted: Mapping[str, int]) -> dict[str, int] | None:
    """Those objects that the server of a remote does not have; None where it cannot be told."""
    url = _endpoint(shadow, remote)
    if not url.startswith(("http://", "https://")):
        return None
    absent = []
    try:
        for part in batches(list(wanted), _BATCH):
            absent += list(_absent(shadow, url, {oid: wanted[oid] for oid in part}))
    except (
        ThetaError,
        OSError,
        HTTPException,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ):
        return None
    return {oid: wanted[oid] for oid in absent}


def _endpoint(shadow: Shadow, remote: str) -> str:
    """Where Git LFS would go for a remote; `remote.lfsdefault` makes it show that one."""
    found = {}
    for line in shadow.ask_lfs("env", default=remote).splitlines():
        name, _, value = line.partition("=")
        if name.startswith("Endpoint"):
            found[name] = value.partition(" (auth=")[0]
    return found.get(f"Endpoint ({remote})") or found.get("Endpoint", "")


def _absent(shadow: Shadow, url: str, wanted: Mapping[str, int]) -> Iterator[str]:
    objects = [{"oid": oid, "size": size} for oid, size in wanted.items()]
    body = {"operation": "download", "transfers": ["basic"], "objects": objects}
    answer = {entry["oid"]: entry for entry in _post(shadow, url, body)["objects"]}
    for oid in wanted:
        if "error" in answer[oid]:
            if answer[oid]["error"]["code"] not in (404, 410):
                raise ValueError("the server has another problem with this object")
            yield oid


def _post(shadow: Shadow, url: str, body: Mapping[str, Any]) -> Any:
    parts = urlsplit(url)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    headers = {"Accept": _TYPE, "Content-Type": _TYPE, **_extra_header(shadow, url)}
    if parts.username:
        headers["Authorization"] = _basic(parts.username, parts.password or "")
    try:
        return _ask(bare, body, headers)
    except HTTPError as error:
        if error.code != 401:
            raise
    return _ask(bare, body, headers | _credentials(shadow, parts))


def _ask(url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/objects/batch", data=data, headers=dict(headers))  # noqa: S310
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
        return json.load(answer)


def _extra_header(shadow: Shadow, url: str) -> dict[str, str]:
    asked = ["config", "--get-urlmatch", "http.extraheader", url]
    text = run_git(asked, cwd=shadow.path, env=shadow.environment(), check=False).decode()
    name, colon, value = text.partition(":")
    return {name.strip(): value.strip()} if colon else {}


def _credentials(shadow: Shadow, parts: SplitResult) -> dict[str, str]:
    """What a credential helper knows."""
    asked = f"protocol={parts.scheme}\nhost={parts.netloc.rpartition('@')[2]}\n"
    asked += f"path={parts.path.lstrip('/')}\n\n"
    silent = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": ""}
    env = shadow.environment() | silent
    told = run_git(["credential", "fill"], cwd=shadow.path, env=env, stdin=asked.encode())
    known = dict(line.partition("=")[::2] for line in told.decode().splitlines())
    return {"Authorization": _basic(known["username"], known["password"])}


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
