"""Who borrows objects from a repository through Git's alternates: a list that borrowers sign.

Git keeps no such list, and what a borrower's manifests need must not be removed from the lender.
So a repository writes its name beside the store of each lender when it first opens its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_LIST = "borrowers"


def sign(common_dir: Path, lenders: Iterable[Path]) -> None:
    """Write a repository into the lists of those it borrows from, where that is allowed.

    `lenders` are media directories of other stores.
    """
    for media in lenders:
        store = media.parents[2]
        if common_dir in of(store, vanished=True):
            continue
        with suppress(OSError), (store / _LIST).open("a") as names:
            names.write(f"{common_dir}\n")


def of(store: Path, *, vanished: bool = False) -> list[Path]:
    """The git directories that signed a store's list: those that are still there, or all."""
    try:
        names = (store / _LIST).read_text(errors="surrogateescape").split("\n")
    except OSError:
        return []
    paths = [Path(name) for name in dict.fromkeys(names) if name]
    return [path for path in paths if vanished or (path / "objects").is_dir()]
