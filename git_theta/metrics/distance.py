"""How far a tensor moved."""

from __future__ import annotations

import math
from typing import ClassVar

from git_theta.core.metric import SUMMARIES, WEIGHTS, Answer, Facts, Need, Value


class Relative:
    """L2 norm of the difference, relative to that of the old values."""

    name: ClassVar[str] = "relative_l2"
    title: ClassVar[str] = "|dW|/|W|"
    needs: ClassVar[Need] = SUMMARIES
    order: ClassVar[int] = 1

    def value(self, facts: Facts) -> Value | None:
        """The ratio; unknown for old values that are all zero."""
        if facts.square is None or not facts.old_square:
            return None
        return Value(math.sqrt(facts.square / facts.old_square), facts.error)

    def text(self, value: Answer) -> str:
        """In percent."""
        return percent_text(float(value))


class L2:
    """L2 norm of the difference."""

    name: ClassVar[str] = "l2"
    title: ClassVar[str] = "|dW|"
    needs: ClassVar[Need] = SUMMARIES
    order: ClassVar[int] = 2

    def value(self, facts: Facts) -> Value | None:
        """The norm."""
        return None if facts.square is None else Value(math.sqrt(facts.square), facts.error)

    def text(self, value: Answer) -> str:
        """Three digits."""
        return f"{value:.3g}"


class Cosine:
    """Cosine between the old and the new values."""

    name: ClassVar[str] = "cosine"
    title: ClassVar[str] = "COSINE"
    needs: ClassVar[Need] = SUMMARIES
    order: ClassVar[int] = 3

    def value(self, facts: Facts) -> Value | None:
        """From the three norms: 2ab cos = a^2 + b^2 - d^2."""
        if facts.square is None or not facts.old_square or not facts.new_square:
            return None
        length = math.sqrt(facts.old_square * facts.new_square)
        # Written with the small terms together, so that a cosine near one keeps its digits.
        gap = math.sqrt(facts.new_square) - math.sqrt(facts.old_square)
        away = max(0.0, facts.square - gap * gap) / (2 * length)
        cosine = max(-1.0, 1 - away)
        error = 2 * facts.error * away / abs(cosine) if cosine else facts.error
        return Value(cosine, error)

    def text(self, value: Answer) -> str:
        """As many nines as there are."""
        away = 1 - float(value)
        digits = 1 - math.floor(math.log10(away)) if away > 0 else 4
        return f"{value:.{min(9, max(4, digits))}f}"


class Largest:
    """The largest absolute change of one value."""

    name: ClassVar[str] = "largest"
    title: ClassVar[str] = "MAX"
    needs: ClassVar[Need] = WEIGHTS
    order: ClassVar[int] = 4

    def value(self, facts: Facts) -> Value | None:
        """Known once the weights were read."""
        return None if facts.largest is None else Value(facts.largest)

    def text(self, value: Answer) -> str:
        """Three digits."""
        return f"{value:.3g}"


def percent_text(share: float) -> str:
    """A share in percent, with two digits that say something."""
    percent = 100 * share
    if not math.isfinite(percent) or not percent:
        return f"{percent:g} %"
    if percent >= 99.5:
        return f"{percent:,.0f} %" if percent < 1e6 else f"{percent:.1e} %"
    return f"{percent:.2g} %" if percent >= 0.001 else f"{percent:.0e} %"
