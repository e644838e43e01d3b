"""A line plot as SVG, by hand: what a page needs of one is little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 430, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 42
# Told apart without colours too: by their order in the legend, and by dashes.
COLOURS = ("#0072b2", "#d55e00", "#555555", "#cc79a7", "#009e73", "#e69f00", "#56b4e9")
STYLE = (
    "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}"
    ".grid{stroke:#ddd}.axis{stroke:#222}.line{fill:none;stroke-width:2}"
)


@dataclass(frozen=True)
class Line:
    """One series: a value for each of 1, 2, 3, ..."""

    title: str
    values: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot of several lines."""

    title: str
    lines: Sequence[Line]


def ticks(highest: float) -> list[float]:
    """Four to eight round values from 0 up to what is enough."""
    step = 1.0
    while highest / step > 8:
        step *= 10
    while highest / step < 4:
        step /= 2 if highest / step < 2 else 2.5 if highest / step < 1.6 else 2
    count = int(-(-highest // step))
    return [step * number for number in range(count + 1)]


def _number(value: float) -> str:
    return f"{value:g}"


def _panel(panel: Panel, at: int, colours: dict[str, str]) -> list[str]:
    ups = ticks(max(max(line.values) for line in panel.lines))
    longest = max(len(line.values) for line in panel.lines)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(number: float) -> str:
        return f"{at + LEFT + width * number / longest:.1f}"

    def y(value: float) -> str:
        return f"{TOP + height * (1 - value / ups[-1]):.1f}"

    found = [f'<text class="title" x="{x(0)}" y="{TOP - 14}">{escape(panel.title)}</text>']
    for value in ups:
        found.append(
            f'<line class="grid" x1="{x(0)}" x2="{x(longest)}" y1="{y(value)}" y2="{y(value)}"/>'
        )
        found.append(
            f'<text x="{at + LEFT - 6}" y="{float(y(value)) + 4:.1f}" text-anchor="end">'
            f"{_number(value)}</text>"
        )
    found += [
        f'<text x="{x(number)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number}</text>'
        for number in range(0, longest + 1, max(1, longest // 5))
    ]
    for line in panel.lines:
        points = " ".join(f"{x(n)},{y(v)}" for n, v in enumerate(line.values, 1))
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        found.append(
            f'<polyline class="line" stroke="{colours[line.title]}"{dashes} points="{points}"/>'
        )
    found.append(
        f'<line class="axis" x1="{x(0)}" x2="{x(longest)}" y1="{y(0)}" y2="{y(0)}"/>'
        f'<text x="{x(longest / 2)}" y="{HEIGHT - 8}" text-anchor="middle">versions</text>'
    )
    return found


def _legend(lines: Sequence[Line], colours: dict[str, str]) -> list[str]:
    found = []
    for number, line in enumerate(lines):
        x, y = LEFT + (number % 2) * WIDTH, HEIGHT + 14 + number // 2 * 20
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        found.append(
            f'<line x1="{x}" x2="{x + 28}" y1="{y}" y2="{y}" stroke-width="2" '
            f'stroke="{colours[line.title]}"{dashes}/>'
            f'<text x="{x + 36}" y="{y + 4}">{escape(line.title)}</text>'
        )
    return found


def drawn(panels: Sequence[Panel]) -> str:
    """The panels side by side above one legend."""
    lines: dict[str, Line] = {}
    for panel in panels:
        lines |= {line.title: line for line in panel.lines if line.title not in lines}
    colours = dict(zip(lines, COLOURS, strict=False))
    width, height = WIDTH * len(panels), HEIGHT + 20 * ((len(lines) + 1) // 2) + 10
    body = [
        part
        for number, panel in enumerate(panels)
        for part in _panel(panel, number * WIDTH, colours)
    ]
    body += _legend(list(lines.values()), colours)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join((head, f"<style>{STYLE}</style>", ground, *body, "</svg>")) + "\n"
