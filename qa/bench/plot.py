"""The plot of docs/benchmarks.md as SVG: for each panel a line of dots on a logarithmic scale, one for each target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Final

from qa.bench.summary import Figures, figure

PANELS: Final = (
    ("c64 req/s", "1 KB, 64 connections: requests/s (more is better)"),
    ("c64 cpu us/req", "CPU per request, 1 KB, µs (less is better)"),
    ("60k cpu us/req", "CPU per request, 60 KB, µs (less is better)"),
    ("600k cpu us/req", "CPU per request, 600 KB, µs (less is better)"),
    ("s200 cpu us/delta", "CPU per streamed delta, 200 streams, µs (less is better)"),
    ("rss peak MB", "resident memory, highest, MB (less is better)"),
)
SHOWN: Final = ("nginx", "limit", "project", "vllm-router", "vllm-router-rr", "litellm")
WIDTH: Final = 760
_LEFT, _RIGHT, _LINE, _TITLE, _GAP = 120, 80, 20, 24, 18
_STYLE = """text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600}.n{text-anchor:end}
.g{stroke:#d1d9e0}.d{fill:#8c959f}.p{fill:#bc4c00}.v{font-variant-numeric:tabular-nums}rect{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.g{stroke:#3d444d}.d{fill:#9198a1}.p{fill:#f0883e}rect{fill:#0d1117}}"""


def _panel(metric: str, title: str, figures: Mapping[str, Figures], top: int) -> tuple[list[str], int]:
    shown = [(name, figures[name][metric]) for name in SHOWN if figures.get(name, {}).get(metric, 0) > 0]
    if not shown:
        return [], top
    low = math.floor(math.log10(min(value for _, value in shown)))
    high = max(low + 1, math.ceil(math.log10(max(value for _, value in shown))))
    lines = [f'<text class="t" x="8" y="{top + 14}">{escape(title)}</text>']
    first, bottom = top + _TITLE, top + _TITLE + _LINE * len(shown)

    def at(value: float) -> float:
        return round(_LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT), 1)

    for power in range(low, high + 1):
        x = at(10.0**power)
        lines.append(f'<line class="g" x1="{x}" x2="{x}" y1="{first}" y2="{bottom}"/>')
        lines.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{10.0**power:,g}</text>')
    for index, (name, value) in enumerate(shown):
        y = first + _LINE * index + _LINE // 2
        kind = "p" if name == "project" else "d"
        bold = ' class="n t"' if name == "project" else ' class="n"'
        lines.append(f'<text{bold} x="{_LEFT - 12}" y="{y + 4}">{escape(name)}</text>')
        lines.append(f'<circle class="{kind}" cx="{at(value)}" cy="{y}" r="5"/>')
        lines.append(f'<text class="v" x="{at(value) + 10}" y="{y + 4}">{figure(value)}</text>')
    return lines, bottom + 16 + _GAP


def plot(figures: Mapping[str, Figures]) -> str:
    """The SVG. Panels that nobody has a figure for are left out."""
    lines: list[str] = []
    top = 8
    for metric, title in PANELS:
        panel, top = _panel(metric, title, figures, top)
        lines += panel
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}">'
    back = f'<rect width="{WIDTH}" height="{top}"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", back, *lines, "</svg>", ""])
