"""An adapter merged into a model's file, and only the adapter stored."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from blake3 import blake3

from git_theta.commands.clean import recognise
from git_theta.commands.progress import progress
from git_theta.commands.rewriting import draft
from git_theta.commands.session import Session
from git_theta.commands.staging import Report, Wanted, add_file, look, make, stage, stored_version
from git_theta.commands.tensors import OpenFile, open_tensors
from git_theta.core.adapters import Adapter, read_bare, read_peft
from git_theta.core.choice import Choice
from git_theta.core.edits import Edit, FactorUpdate, ScaleUpdate
from git_theta.core.fitting import Material, lay
from git_theta.core.manifest import Manifest
from git_theta.core.peft import CONFIG, MAX_CONFIG, WEIGHTS, read_config
from git_theta.core.values import is_float
from git_theta.errors import (
    FormatError,
    MissingError,
    NotTrackedError,
    RefusedError,
    UsageError,
    shell_word,
)
from git_theta.repo.streams import CountedStream, FileReader, FileStream, open_regular
from git_theta.repo.tracked import is_left_as_manifest

_WEIGHTS = (WEIGHTS, "adapter_model.bin")
_BLOCK = 8 << 20


def sideload(
    session: Session, path: str, source: Path, update: str | None, *, force: bool
) -> Report:
    """Apply an adapter to a work-tree file and stage the result as an update of what it was.

    Raises:
        RefusedError: something does not fit, or the file is not what is staged; nothing is
            changed then.
    """
    base = base_of(session, path)
    with open_model(session, path) as model, open_tensors(_weights(source)) as found:
        adapter = _read(source, found)
        _check_kind(adapter, update)
        edits = lay(adapter, model.layout, _material(session, found))
        _settle(session, path, base, force=force)
        return write(session, path, model, edits)


# --- the base ------------------------------------------------------------------------------------


def base_of(session: Session, path: str) -> Manifest:
    """The version of a work-tree file that updates can be of, with all its objects here.

    Raises:
        NotTrackedError: there is none yet.
        RefusedError: the file is only a manifest.
        MissingError: it is not all here.
    """
    base = stored_version(session, path)
    if base is None:
        raise NotTrackedError(
            f"{path} has no version yet that an update could be of",
            hint=f"git add -- {shell_word(path)}",
        )
    if is_left_as_manifest(session.path(path)):
        raise RefusedError(
            f"{path} is still a manifest", hint=f"git theta pull -- {shell_word(path)}"
        )
    missing = session.store.lacking(base.objects)
    if missing:
        raise MissingError(
            f"{len(missing)} objects of {path} are not here, which the update needs as its base",
            hint=f"git theta fetch, or git theta add --force -- {shell_word(path)}",
        )
    return base


def _settle(session: Session, path: str, base: Manifest, *, force: bool) -> None:
    """See that a file is what is staged; with `force`, stage it first as it is.

    Raises:
        RefusedError: it is something else.
    """
    if is_staged(session, path, base):
        return
    if not force:
        raise RefusedError(
            f"{path} is modified: an update is of what is staged",
            hint=f"git add -- {shell_word(path)}, or add --force",
        )
    stage(session.repo, [add_file(session, path, lambda _: None)])


def is_staged(session: Session, path: str, base: Manifest) -> bool:
    """Whether a work-tree file is the version that a manifest stands for."""
    if not base.digest:
        return not session.repo.git("diff-files", "--name-only", "--", f":(top,literal){path}")
    file = session.path(path)
    if file.stat().st_size != base.size:
        return False
    whole = blake3()
    with file.open("rb", buffering=0) as reader:
        while block := reader.read(_BLOCK):
            whole.update(block)
    return whole.hexdigest() == base.digest


@contextmanager
def open_model(session: Session, path: str) -> Iterator[OpenFile]:
    """Open a work-tree file whose tensors can be written anew.

    Raises:
        RefusedError: its format has no tensors that can be.
    """
    handle = open_regular(session.path(path))
    if handle is None:
        raise NotTrackedError(f"{path} cannot be read")
    try:
        reader = FileReader(handle)
        plugin = recognise(session, path, reader.read(0, 4096)).plugin
        if not hasattr(plugin, "locate") or not hasattr(plugin, "refresh"):
            raise RefusedError(f"{path} is of no format whose tensors can be written here")
        try:
            layout = plugin.locate(reader)
        except FormatError as error:
            raise RefusedError(f"{path}: {error}", hint=error.hint) from error
        yield OpenFile(reader, plugin, layout)
    finally:
        os.close(handle)


# --- the adapter ---------------------------------------------------------------------------------


def _weights(source: Path) -> Path:
    """The file of tensors of an adapter that is given as a directory, or itself."""
    if not source.is_dir():
        return source
    for name in _WEIGHTS:
        if (source / name).is_file():
            return source / name
    raise NotTrackedError(
        f"there is no {_WEIGHTS[0]} in {str(source)!r}", hint="give the directory PEFT wrote"
    )


def _read(source: Path, found: OpenFile) -> Adapter:
    folder = source if source.is_dir() else source.parent
    config = folder / CONFIG
    if source.is_dir() or (source.name in _WEIGHTS and config.is_file()):
        try:
            with config.open("rb") as file:
                raw = file.read(MAX_CONFIG + 1)
        except OSError as error:
            raise NotTrackedError(f"{config} cannot be read: {error.strerror}") from error
        return read_peft(read_config(raw), found.views)
    return read_bare(found.views, lambda name: _scalar(found, name))


def _scalar(found: OpenFile, name: str) -> float | None:
    view = found.views[name]
    if math.prod(view.shape) != 1 or not is_float(view.dtype):
        return None
    value = float(found.floats(name).reshape(-1)[0])
    return value if math.isfinite(value) else None


def _material(session: Session, found: OpenFile) -> Material:
    return Material(
        tensors=found.views,
        floats=found.floats,
        integers=found.integers,
        low_rank=lambda: cast("FactorUpdate", session.plugins.updates("low-rank")),
        ia3=lambda: cast("ScaleUpdate", session.plugins.updates("ia3")),
    )


def _check_kind(adapter: Adapter, update: str | None) -> None:
    if update is not None and update not in (adapter.kind, "auto"):
        raise UsageError(
            f"the file holds a {adapter.kind} update, not {update!r}",
            hint=f"--update {adapter.kind}, or leave it out",
        )


# --- the new file --------------------------------------------------------------------------------

# What a lossy update is told of the new file: a line for each tensor, and one for all.
Measure = Callable[[FileReader], tuple[list[dict[str, Any]], dict[str, Any]]]


def write(
    session: Session,
    path: str,
    model: OpenFile,
    edits: Mapping[str, Edit],
    measure: Measure | None = None,
) -> Report:
    """Write the edited file, store and stage it as updates of the old one.

    Until the new file is complete and stored, the old one stays where it is. With `measure`, the
    tensors are marked as lossy.
    """
    target = session.path(path)
    seen = look(target)
    sizes = {view.name: model.layout.segments[view.segment].size for view in model.views.values()}
    total = 2 * model.reader.size + sum(sizes[name] for name in edits)
    rows = [{"name": name, "kind": edit.kind} for name, edit in sorted(edits.items())]
    told: dict[str, Any] = {}
    with (
        progress(total, f"writing {path}") as advance,
        draft(session, model, edits, advance) as new,
    ):
        if measure is not None:
            rows, told = measure(FileReader(new.handle))
        choice = Choice(loaded={name: edit.encoded for name, edit in edits.items()})
        stream = CountedStream(FileStream(new.handle), advance)
        lossy = () if measure is None else tuple(edits)
        report = make(session, path, stream, Wanted(choice=choice, lossy=lossy))
        if look(target) != seen:
            raise RefusedError(f"{path} changed meanwhile; it was left alone", hint="try again")
        new.place(target)
    report = replace(report, seen=look(target), tensors=tuple(rows), total=told)
    stage(session.repo, [report])
    return report
