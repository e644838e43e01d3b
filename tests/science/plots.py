"""Two kinds of plots as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = ("#2f6fb2", "#d9822b")
_INK, _GRID = "#6b7280", "#9ca3af55"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{_INK}">{escape(text)}</text>'
    )


def _page(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="system-ui, sans-serif" role="img">'
    )
    lines = [head, f"<title>{escape(title)}</title>", _text(10, 22, title, size=14)]
    return "\n".join([*lines, *parts, "</svg>"]) + "\n"


def _legend(x: float, y: float, names: Sequence[str]) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        left = x + 110 * number
        parts.append(
            f'<rect x="{left}" y="{y - 10}" width="12" height="12" fill="{_COLOURS[number]}"/>'
        )
        parts.append(_text(left + 18, y, name))
    return parts


def bars(title: str, groups: Sequence[str], values: Mapping[str, Sequence[float]]) -> str:
    """Horizontal bars: one row for each label, one bar for each group."""
    left, top, row, full = 140, 56, 40, 520
    parts = _legend(left, 44, groups)
    for number, (label, each) in enumerate(values.items()):
        y = top + row * number
        parts.append(_text(left - 10, y + 22, label, anchor="end"))
        for index, value in enumerate(each):
            place = y + 4 + 15 * index
            width = full * value / 100
            parts.append(
                f'<rect x="{left}" y="{place}" width="{width:.1f}" height="13" '
                f'fill="{_COLOURS[index]}"/>'
            )
            parts.append(_text(left + width + 6, place + 11, f"{value:.1f}"))
    return _page(left + full + 60, top + row * len(values) + 10, title, parts)


def lines(title: str, along: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over 0 to 1, with a point and a figure for each value."""
    left, top, width, height = 50, 60, 560, 260
    found = [value for points in series.values() for _, value in points]
    low, high = 5 * (min(found) // 5), 100.0

    def place(x: float, value: float) -> tuple[float, float]:
        return left + width * x, top + height * (high - value) / (high - low)

    parts = _legend(left, 44, list(series))
    mark = low
    while mark <= high:
        _, y = place(0, mark)
        parts.append(f'<path d="M{left} {y:.1f}h{width}" stroke="{_GRID}"/>')
        parts.append(_text(left - 8, y + 4, f"{mark:g}", anchor="end"))
        mark += 5
    for colour, points in zip(_COLOURS, series.values(), strict=False):
        at = [place(x, value) for x, value in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for (x, y), (_, value) in zip(at, points, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            parts.append(_text(x, y - 9, f"{value:.1f}", anchor="middle", size=11))
    for x, _ in next(iter(series.values())):
        parts.append(_text(place(x, low)[0], top + height + 20, f"{x:g}", anchor="middle"))
    parts.append(_text(left + width / 2, top + height + 40, along, anchor="middle"))
    return _page(left + width + 40, top + height + 52, title, parts)
