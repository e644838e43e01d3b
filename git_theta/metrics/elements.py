"""What became of single values."""

from __future__ import annotations

from typing import ClassVar

from git_theta.core.metric import SUMMARIES, WEIGHTS, Answer, Facts, Need, Value
from git_theta.metrics.distance import percent_text


class Changed:
    """The share of values whose bits differ."""

    name: ClassVar[str] = "changed_share"
    title: ClassVar[str] = "CHANGED"
    needs: ClassVar[Need] = WEIGHTS
    order: ClassVar[int] = 5

    def value(self, facts: Facts) -> Value | None:
        """Known once the weights were read."""
        if facts.differing is None or not facts.count:
            return None
        return Value(facts.differing / facts.count)

    def text(self, value: Answer) -> str:
        """In percent."""
        return percent_text(float(value))


class Flips:
    """The share of values whose sign turned; a zero has none."""

    name: ClassVar[str] = "sign_flips"
    title: ClassVar[str] = "FLIPS"
    needs: ClassVar[Need] = WEIGHTS
    order: ClassVar[int] = 6

    def value(self, facts: Facts) -> Value | None:
        """Known once the weights were read."""
        if facts.flips is None or not facts.count:
            return None
        return Value(facts.flips / facts.count)

    def text(self, value: Answer) -> str:
        """In percent."""
        return percent_text(float(value))


class NaNs:
    """NaNs that appeared, or (negative) went."""

    name: ClassVar[str] = "nans"
    title: ClassVar[str] = "NAN"
    needs: ClassVar[Need] = SUMMARIES
    order: ClassVar[int] = 8

    def value(self, facts: Facts) -> Value | None:
        """The difference, where there is one: counts in summaries are exact."""
        return _appeared(facts.old_nans, facts.new_nans)

    def text(self, value: Answer) -> str:
        """With its sign."""
        return f"{value:+,}"


class Infinities:
    """Infinities that appeared, or (negative) went."""

    name: ClassVar[str] = "infinities"
    title: ClassVar[str] = "INF"
    needs: ClassVar[Need] = SUMMARIES
    order: ClassVar[int] = 9

    def value(self, facts: Facts) -> Value | None:
        """The difference, where there is one: counts in summaries are exact."""
        return _appeared(facts.old_infinities, facts.new_infinities)

    def text(self, value: Answer) -> str:
        """With its sign."""
        return f"{value:+,}"


def _appeared(old: int | None, new: int | None) -> Value | None:
    return None if old is None or new is None or old == new else Value(new - old)
