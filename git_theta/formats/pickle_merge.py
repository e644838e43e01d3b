"""The plain values of several pickles merged: numbers, truth values, texts beside the tensors.

Programs that differ in nothing but such values are compared slot by slot, as in any three-way
merge, and the values are written into the slots of one of them. A value that does not fit into
its slot, such as a larger number where one byte was, makes that program unfit.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from git_theta.core.threeway import classify
from git_theta.errors import FormatError
from git_theta.formats.pickle_machine import Machine, Node
from git_theta.formats.pickle_reader import MAX_OPERATIONS, OPERATIONS, perform

_VALUES = frozenset(b"JKMILGFNUTXVS\x88\x89\x8a\x8b\x8c\x8d")
_STOP = 0x2E
_INTEGERS = {"J": (4, True), "K": (1, False), "M": (2, False)}


class Slot(NamedTuple):
    """One operation: where it stands in the program, and the value that it pushes, if plain."""

    code: int
    start: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True)
class Program:
    """A pickle: its bytes from `start` on, and the storage keys, which differ by the writer."""

    data: bytes
    start: int
    keys: Collection[str]

    def slots(self) -> list[Slot]:
        """Its operations, in order."""
        machine = Machine(self.data, self.start, lambda _: Node(), lambda _what, _args: Node())
        found: list[Slot] = []
        for _ in range(MAX_OPERATIONS):
            at = machine.pos
            code = machine.byte()
            if code == _STOP:
                return found
            operation = OPERATIONS.get(code)
            if operation is None:
                raise FormatError(f"byte {at} of the pickle is no operation")
            perform(machine, operation)
            value = machine.stack[-1] if code in _VALUES else None
            found.append(Slot(code, at, machine.pos, value))
        raise FormatError("the pickle has too many operations")

    def shape(self, slots: Sequence[Slot]) -> list[bytes]:
        """What must be alike: every operation, without plain values."""
        return [
            b"value" if slot.code in _VALUES else self.data[slot.start : slot.end] for slot in slots
        ]

    def comparable(self, slots: Sequence[Slot]) -> list[Any]:
        """The value of each slot by kind; storage keys by the order in which they come."""
        numbers: dict[Any, int] = {}
        return [
            ("key", numbers.setdefault(slot.value, len(numbers)))
            if isinstance(slot.value, str) and slot.value in self.keys
            else (type(slot.value).__name__, repr(slot.value))
            for slot in slots
        ]


def merge_values(
    base: Program | None, models: Sequence[Program]
) -> tuple[int, Mapping[int, bytes], tuple[str, ...]]:
    """The program to write into, patches of its bytes (offset -> bytes), and notes for the user.

    Raises:
        FormatError: the programs differ in more than values, or a value fits into none of them.
    """
    programs = [*models] if base is None else [base, *models]
    slots = [program.slots() for program in programs]
    shapes = [program.shape(found) for program, found in zip(programs, slots, strict=True)]
    if any(shape != shapes[0] for shape in shapes):
        raise FormatError("the objects in the pickles are not built alike")
    values = [p.comparable(found) for p, found in zip(programs, slots, strict=True)]
    sides, own = values[-len(models) :], slots[-len(models) :]
    wanted, notes = [], []
    for index in range(len(slots[0])):
        before = None if base is None else values[0][index]
        verdict = classify(before, [side[index] for side in sides])
        if verdict.winner is None:
            notes.append(_note(own, index))
        wanted.append(verdict.winner or 0)
    for frame, program in enumerate(models):
        patches = _patches(program, frame, own, sides, wanted)
        if patches is not None:
            return frame, patches, tuple(notes)
    raise FormatError("a merged value does not fit into the place of the old one")


def _note(own: Sequence[Sequence[Slot]], index: int) -> str:
    """Name the value by the text before it, which is its key in a mapping."""
    before = (slot.value for slot in reversed(own[0][:index]) if isinstance(slot.value, str))
    name = next(before, "a value")
    said = " and ".join(str(slots[index].value)[:40] for slots in own)
    return f"{name!r} was changed on both sides ({said}): ours was kept"


def _patches(
    program: Program,
    frame: int,
    own: Sequence[Sequence[Slot]],
    sides: Sequence[Sequence[Any]],
    wanted: Sequence[int],
) -> dict[int, bytes] | None:
    patches = {}
    for index, winner in enumerate(wanted):
        if sides[winner][index] == sides[frame][index]:
            continue
        slot, value = own[frame][index], own[winner][index].value
        raw = _spelled(slot, value)
        if raw is None or len(raw) != slot.end - slot.start:
            return None
        if raw != program.data[slot.start : slot.end]:
            patches[slot.start] = raw
    return patches


def _spelled(slot: Slot, value: Any) -> bytes | None:
    """An operation of the slot's length that pushes a value, or None."""
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if value is None:
        return b"N"
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, int):
        size, signed = _INTEGERS.get(chr(slot.code), (0, False))
        low, high = (-(1 << 31), 1 << 31) if signed else (0, 1 << 8 * size)
        fits = size and low <= value < high
        return bytes([slot.code]) + value.to_bytes(size, "little", signed=signed) if fits else None
    raw = str(value).encode()
    heads = {b"X": struct.pack("<I", len(raw)), b"\x8c": bytes([len(raw) & 255])}
    head = heads.get(bytes([slot.code]))
    return None if head is None else bytes([slot.code]) + head + raw
