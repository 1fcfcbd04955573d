"""Draws the packages and their imports, and writes their table: `python -m docs.architecture`.

The picture is ``docs/architecture.svg``. The table goes between two marks in ``docs/architecture.md``.
"""

import itertools
import re
import textwrap
from graphlib import TopologicalSorter
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line

from docs.imports import LAYERS, SCIENCE, packages_used, read_imports

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs/architecture.md"
PICTURE = PROJECT / "docs/architecture.svg"
TABLE = re.compile(r"(?<=<!-- packages: start -->\n).*(?=<!-- packages: end -->)", re.DOTALL)
FOUNDATION = tuple(LAYERS[0])

Graph = dict[str, set[str]]
# An arrow that passes a row of boxes has a point there: (user, used, row).
Point = str | tuple[str, str, int]


def package_table(used: Graph) -> str:
    """Give one Markdown row per package: what it holds and which packages it uses."""
    rows = ["| package | holds | uses |", "|---|---|---|"]
    for name, holds in ((name, holds) for layer in LAYERS for name, holds in layer.items() if name in used):
        names = ", ".join(f"`{other}`" for layer in LAYERS for other in layer if other in used[name])
        rows.append(f"| `{name}` | {holds} | {names or '–'} |")
    return "\n".join(rows) + "\n"


def drawn_arrows(used: Graph) -> set[tuple[str, str]]:
    """Pick the imports that the picture shows.

    The foundation is left out, since nearly everything uses it, and so is an import between two
    packages that other arrows connect already.
    """
    above = {name: others - set(FOUNDATION) for name, others in used.items() if name not in FOUNDATION}

    def reached(name: str) -> set[str]:
        return above[name].union(*(reached(other) for other in above[name]))

    return {
        (name, other)
        for name, others in above.items()
        for other in others
        if not any(other in reached(between) for between in others - {other})
    }


def draw(used: Graph) -> Figure:
    """Draw one box per package, and arrows from each package to those that it uses."""
    arrows = sorted(drawn_arrows(used))
    names = [name for layer in LAYERS[1:] for name in layer if name in used]
    rows = _rows(names, arrows)
    places = _places(rows, arrows)
    figure = Figure(figsize=(11, 1.15 * len(set(rows.values())) + 1.3))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.2, 10.2)
    axes.set_ylim(-1.15, max(rows.values()) + 0.45)
    for user, other in arrows:
        between = [places[user, other, row] for row in range(rows[user] - 1, rows[other], -1)]
        axes.add_patch(_arrow(places[user], between, places[other], f"{user}-{other}"))
    for name in names:
        x, y = places[name]
        axes.add_patch(_box(x - 0.85, y - 0.22, 1.7, 0.44, "#d9ead3" if name in SCIENCE else "#dbe5f1"))
        axes.text(x, y, name, ha="center", va="center", fontsize=13, zorder=3)
    axes.add_patch(_box(0.1, -1.1, 9.8, 0.6, "#eeeeee"))
    below = "all may use: " + ", ".join(name for name in FOUNDATION if name in used)
    below = "\n".join(textwrap.wrap(below, 70))
    axes.text(5, -0.8, below, ha="center", va="center", fontsize=12, linespacing=1.4, zorder=3)
    return figure


def write() -> None:
    """Write the picture and the table from the code as it is."""
    used = packages_used(read_imports(PROJECT / "tem_pipeline"))
    with mpl.rc_context({"svg.hashsalt": "architecture", "svg.fonttype": "none"}):
        draw(used).savefig(PICTURE, metadata={"Date": None})
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: package_table(used), text), encoding="utf-8")


def _rows(names: list[str], arrows: list[tuple[str, str]]) -> dict[str, int]:
    """Put every package one row above the highest one that it uses."""
    used = {name: [other for user, other in arrows if user == name] for name in names}
    rows: dict[str, int] = {}
    for name in TopologicalSorter(used).static_order():
        rows[name] = max((rows[other] + 1 for other in used[name]), default=0)
    return rows


def _places(rows: dict[str, int], arrows: list[tuple[str, str]]) -> dict[Point, tuple[float, float]]:
    """Order each row so that few arrows cross, and give every point its coordinates."""
    neighbours: dict[Point, list[Point]] = {name: [] for name in rows}
    level: dict[Point, int] = {**rows}
    for user, other in arrows:
        passed: list[Point] = [(user, other, row) for row in range(rows[user] - 1, rows[other], -1)]
        chain: list[Point] = [user, *passed, other]
        for point in passed:
            level[point] = point[2] if isinstance(point, tuple) else rows[point]
        for first, second in itertools.pairwise(chain):
            neighbours.setdefault(first, []).append(second)
            neighbours.setdefault(second, []).append(first)
    by_row = [[point for point in level if level[point] == row] for row in range(max(rows.values()) + 1)]
    x = dict.fromkeys(level, 0.0)
    for members in by_row:
        x |= _spread(members)
    for sweep in range(24):
        for members in by_row if sweep % 2 else reversed(by_row):
            aim = {p: sum(x[n] for n in neighbours[p]) / max(len(neighbours[p]), 1) for p in members}
            members.sort(key=lambda point: aim[point])
            x |= _spread(members)
    return {point: (x[point], float(level[point])) for point in level}


def _spread(members: list[Point]) -> dict[Point, float]:
    """Give the points of a row places from 0 to 10; a box takes more room than an arrow."""
    room = [1.0 if isinstance(point, str) else 0.45 for point in members]
    ends = [sum(room[: i + 1]) for i in range(len(room))]
    return {
        point: 10 * (end - own / 2) / ends[-1] for point, end, own in zip(members, ends, room, strict=True)
    }


def _box(x: float, y: float, width: float, height: float, colour: str) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=0.08"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="#555555", zorder=2
    )


def _arrow(
    start: tuple[float, float], between: list[tuple[float, float]], end: tuple[float, float], name: str
) -> FancyArrowPatch:
    """Draw an arrow from the lower side of a box to the upper side of another one."""
    points = [(start[0], start[1] - 0.22), *between, (end[0], end[1] + 0.24)]
    vertices, codes = [points[0]], [Line.MOVETO]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Line.CURVE4] * 3
    return FancyArrowPatch(
        path=Line(vertices, codes), arrowstyle="-|>", mutation_scale=14, color="#555555", gid=name, zorder=1
    )


if __name__ == "__main__":
    write()
