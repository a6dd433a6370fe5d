"""Draw the reliability diagram of docs/analysis.md: how often decisions are right at each confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.validation import Judged

FILE = Path(__file__).parents[2] / "docs" / "images" / "reliability.svg"
_BINS = 10
_LEFT, _TOP, _SIZE = 60, 20, 360
_STYLE = {"natural": "#1f6fb2", "written": "#c2571a"}


def diagram(judged: Sequence[Judged], confidences: Sequence[float]) -> str:
    """Return an SVG: for natural and written prompts, ten bins of equal size, mean confidence and share right."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _SIZE + 20} {_TOP + _SIZE + 60}" '
        'font-family="sans-serif" font-size="13" role="img" '
        'aria-label="Share of right decisions at each confidence, for prompts of sources left out">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#888888"/>',
        f'<path d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}" stroke="#888888" stroke-dasharray="4 4"/>',
    ]
    for tick in range(0, 11, 2):
        at = tick / 10
        parts.append(f'<text x="{_x(at)}" y="{_TOP + _SIZE + 18}" text-anchor="middle">{at:.1f}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{_y(at) + 4}" text-anchor="end">{at:.1f}</text>')
    parts.append(f'<text x="{_x(0.5)}" y="{_TOP + _SIZE + 42}" text-anchor="middle">confidence</text>')
    parts.append(f'<text x="16" y="{_y(0.5)}" text-anchor="middle" transform="rotate(-90 16 {_y(0.5)})">right</text>')
    for place, (name, colour) in enumerate(_STYLE.items()):
        pairs = sorted(
            (c, j.right) for j, c in zip(judged, confidences, strict=True) if j.row.natural == (name == "natural")
        )
        points = [_mean(pairs[len(pairs) * n // _BINS : len(pairs) * (n + 1) // _BINS]) for n in range(_BINS)]
        line = "L".join(f"{_x(c)} {_y(r)}" for c, r in points)
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{_x(c)}" cy="{_y(r)}" r="3.5" fill="{colour}"/>' for c, r in points]
        label = f"{name} ({len(pairs):,} prompts)"
        parts.append(f'<text x="{_LEFT + 14}" y="{_TOP + 22 + 18 * place}" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _mean(part: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    return sum(c for c, _ in part) / len(part), sum(r for _, r in part) / len(part)


def _x(share: float) -> float:
    return round(_LEFT + _SIZE * share, 1)


def _y(share: float) -> float:
    return round(_TOP + _SIZE * (1 - share), 1)
