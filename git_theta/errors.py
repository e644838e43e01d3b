"""Every failure a user can meet: what is wrong, what to do, and the exit code by kind.

Exit codes: 1 differences or conflicts, 2 usage, 3 not a repository or not tracked, 4 objects
missing, 5 corrupt, 6 network, 7 refused for safety. Anything that is not a `ThetaError` is a bug
and ends with 128.
"""

from __future__ import annotations

from typing import ClassVar


def shell_word(text: str) -> str:
    """One word of a command that a hint tells the user to run, whatever somebody called a file."""
    if text.isprintable():
        import shlex

        return shlex.quote(text)
    raw = text.encode(errors="surrogateescape")
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./ "
    return "$'" + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in raw) + "'"


class ThetaError(Exception):
    """An expected failure: a message for the user, a hint what to do, an exit code by kind."""

    exit_code: ClassVar[int] = 128

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ThetaError):
    """The command line or a setting is not understood."""

    exit_code = 2


class NotTrackedError(ThetaError):
    """There is no repository here, or the path is not kept by git-theta."""

    exit_code = 3


class MissingError(ThetaError):
    """An object or a plug-in that a manifest names is not here."""

    exit_code = 4


class CorruptError(ThetaError):
    """Stored bytes are not what their name promises."""

    exit_code = 5


class ManifestError(CorruptError):
    """A text that claims to be a manifest breaks the rules of manifests."""


class NewerManifestError(ManifestError):
    """A manifest of a version that a later release of git-theta writes."""


class MergeError(ThetaError):
    """Tensors cannot be merged in the way that was asked for."""

    exit_code = 1


class TransferError(ThetaError):
    """A remote could not be reached, or would not give or take an object."""

    exit_code = 6


class RefusedError(ThetaError):
    """Going on would risk the user's data."""

    exit_code = 7


class FormatError(ThetaError):
    """A format plug-in cannot read a file; the file is then stored as opaque chunks."""

    exit_code = 5


class PluginError(ThetaError):
    """A plug-in is not installed or does not work, or two packages claim one name."""

    exit_code = 4


class NoPluginError(PluginError):
    """No installed package offers a plug-in."""
