"""Names of arms in, looks, sizes and ticks out: the one place that says how all appears. Knows no plotting library.

Colours of arms follow Okabe & Ito's palette for colour-blind readers ("Color Universal Design", 2008), shifted in
lightness where a hue would be too faint on white paper or on the dark page; no arm is told by its colour alone, each
has its own dash too. Heatmaps use magma and layers viridis (van der Walt & Smith, 2015), which are perceptually uniform
and keep their order in grey.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

# Figures are drawn at twice a paper's column (3.3 in), so that every size here is halved when a figure is set in one
# column: 11 points become 5.5, which can just be read.
FIGURE_WIDTH_INCHES = 6.6
DOTS_PER_INCH = 200
FONT_FAMILY = "DejaVu Sans"  # comes with matplotlib, so a figure looks the same on every machine
TITLE_POINTS = 13.0
LABEL_POINTS = 12.0
SMALL_POINTS = 11.0

# The density that the paper's heatmaps show as their brightest colour; anything above looks the same.
DENSITY_LIMIT = 10.0

# Density on paper goes from white, so that the thin densities of a wide spread are seen and little ink is spent,
# through magma to black; on a dark page from black to magma's pale end. Lightness is nearly even along both.
_MAGMA = ("#fec488", "#fc8961", "#e75263", "#b73779", "#832681", "#51127c", "#1d1147", "#000004")
_MAGMA_DARK = ("#000004", "#420f75", "#6e1e81", "#9a2d80", "#c73d73", "#ee5b5e", "#fd8f68", "#fec287", "#fcfdbf")
DENSITY_COLOURS = {"light": ("#ffffff", *_MAGMA), "dark": _MAGMA_DARK}
# The line of layer means over a heatmap and its edge, so that it is seen on every colour.
MEAN_LINE = {"light": "#101418", "dark": "#fefefe"}
MEAN_EDGE = {"light": "#fefefe", "dark": "#101418"}

# Cosines and similarities from 0 to 1 are coloured by all of it; what is missing stays as white as the paper.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
# Layers are coloured along viridis too; its ends are left out where they would vanish in the background.
LAYER_RANGE = {"light": (0.0, 0.86), "dark": (0.22, 1.0)}

THEMES: dict[str, dict[str, str]] = {
    "light": {
        "page": "#ffffff",
        "panel": "#f6f7f9",
        "text": "#1b1f24",
        "muted": "#57606a",
        "line": "#d5dae0",
        "grid": "#e4e7eb",
        "accent": "#00609c",
        "accent_soft": "#e8f2f9",
    },
    "dark": {
        "page": "#14171c",
        "panel": "#1d2229",
        "text": "#e7eaee",
        "muted": "#a3acb8",
        "line": "#3a424d",
        "grid": "#2c333c",
        "accent": "#6cbcf0",
        "accent_soft": "#17293a",
    },
}


@dataclass(frozen=True)
class LineStyle:
    """How one arm is drawn: its colour on a light and a dark page, its dash (on, off, in line widths), its marker."""

    light: str
    dark: str
    dash: tuple[float, ...] = ()
    marker: str = "o"


PALETTE = (
    LineStyle("#000000", "#f2f2f2", (), "o"),
    LineStyle("#0072b2", "#56b4e9", (5.0, 1.5), "s"),
    LineStyle("#d55e00", "#ff8040", (1.5, 1.2), "D"),
    LineStyle("#009e73", "#1fc796", (6.0, 1.5, 1.5, 1.5), "^"),
    LineStyle("#b04a8b", "#e8a0cf", (3.0, 3.0), "v"),
    LineStyle("#5b3a00", "#f0e442", (8.0, 2.0), "P"),
)
# Arms that appear in many figures keep their place, whatever stands beside them.
RESERVED = {"cross_entropy": 0, "dispersion": 1, "effective_rank": 2}


def line_styles(names: Sequence[str]) -> list[LineStyle]:
    """Return a style for each of `names`: known arms keep theirs, others take the free ones in order.

    When all are taken their colours come again, each with the dash and marker of another.

    >>> [style.light for style in line_styles(["effective_rank", "mine"])]
    ['#d55e00', '#000000']
    """
    keys = [name.replace(" ", "_") for name in names]  # "effective rank" is `effective_rank` as `label` writes it
    taken = {RESERVED[key] for key in keys if key in RESERVED}
    free = [index for index in range(len(PALETTE)) if index not in taken] or list(range(len(PALETTE)))
    styles: dict[str, LineStyle] = {}
    for key in keys:
        if key not in styles:
            turn, unknown = divmod(sum(known not in RESERVED for known in styles), len(free))
            place = RESERVED.get(key, free[unknown])
            other = PALETTE[(place + turn) % len(PALETTE)]
            again = turn > 0 and key not in RESERVED
            styles[key] = replace(PALETTE[place], dash=other.dash, marker=other.marker) if again else PALETTE[place]
    return [styles[key] for key in keys]


def label(name: str) -> str:
    """Return `name` as a reader should see it: identifiers lose their underscores, anything else stays as it is.

    >>> label("effective_rank"), label("my_models/run_1")
    ('effective rank', 'my_models/run_1')
    """
    return name.replace("_", " ") if re.fullmatch(r"[a-z][a-z0-9_]*", name) else name


def wrap(text: str, width_inches: float, points: float, bold: bool = False) -> str:
    """Break `text` into lines of `width_inches` at a size of `points`, after a space, slash, hyphen or underscore.

    >>> wrap("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 2.0, 11)
    'deepseek-ai/DeepSeek-\\nR1-Distill-Qwen-1.5B'
    """
    room = width_inches * 72 / points / (1.12 if bold else 1.0)
    lines = [""]
    for word in re.findall(r"[^\s/_-]*[\s/_-]|[^\s/_-]+", text):
        if lines[-1] and _advance(lines[-1] + word.rstrip()) > room:
            lines.append("")
        for character in word:  # a word longer than a line is broken where the line is full
            if _advance(lines[-1] + character.strip()) > room:
                lines.append("")
            lines[-1] += character
    return "\n".join(line.strip() for line in lines if line.strip())


def _advance(text: str) -> float:
    """Width of `text` in font sizes, near enough for DejaVu Sans: narrow letters, wide ones, all others."""
    narrow, wide = " ijltfr.,:;'|!()[]-/", "mw@%"
    return math.fsum(0.36 if x in narrow else 0.74 if x.isupper() or x in wide else 0.62 for x in text)


def blend(stops: Sequence[str], position: float) -> str:
    """Return the colour at `position` in [0, 1] along evenly spaced `stops`, as hexadecimal.

    >>> blend(["#000000", "#ffffff"], 0.5)
    '#808080'
    """
    place = min(max(position, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(place), len(stops) - 2)
    low, high = _channels(stops[index]), _channels(stops[index + 1])
    return "#" + "".join(f"{round(a + (b - a) * (place - index)):02x}" for a, b in zip(low, high, strict=True))


def translucent(colour: str, opacity: float) -> str:
    """Return `colour` (hexadecimal) as a CSS colour of the given opacity."""
    return "rgba({}, {}, {}, {})".format(*_channels(colour), opacity)


def layer_colours(layers: int, theme: str = "light") -> list[str]:
    """Return a colour for each of `layers` layers, first to last along viridis."""
    low, high = LAYER_RANGE[theme]
    return [blend(VIRIDIS, low + (high - low) * index / max(layers - 1, 1)) for index in range(layers)]


def step_position(step: float) -> float:
    """Return where `step` lies on an axis that shows step 0 and is logarithmic after it: log10(1 + step)."""
    return math.log10(1.0 + step)


def step_ticks(last: float, unit: float = 1.0) -> list[tuple[float, str]]:
    """Return (step, text) of the ticks of such an axis that ends at `last`: 0 and powers of ten, at most six of them.

    With a `unit` the axis is log10(1 + step / unit), and the powers of ten are those of it.

    >>> step_ticks(1500)
    [(0.0, '0'), (1.0, '1'), (10.0, '10'), (100.0, '100'), (1000.0, '1k')]
    """
    powers = [unit * 10**exponent for exponent in range(int(math.log10(max(last / unit, 1.0))) + 1)]
    stride = math.ceil(len(powers) / 5)
    return [(value, short_number(value)) for value in [0.0, *powers[::stride]]]


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks for a logarithmic axis from `low` to `high`, above 0: 1, 2, 5 times powers of ten, or even steps.

    >>> log_ticks(70, 1200), log_ticks(80, 118)
    ([100.0, 200.0, 500.0, 1000.0], [80.0, 90.0, 100.0, 110.0])
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if math.isclose(math.log10(tick), round(math.log10(tick)), abs_tol=1e-9)]
    if len(ticks) >= 3 or low == high:
        return ticks
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [round(step * index, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short_number(value: float) -> str:
    """Return `value` short enough for a tick: thousands as k, millions as M.

    >>> [short_number(value) for value in (0.5, 300, 20000, 1500000)]
    ['0.5', '300', '20k', '1.5M']
    """
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def short_count(value: float) -> str:
    """Return a number of parameters or tokens as people say it: three digits and k, M, B (10^9) or T (10^12).

    >>> [short_count(value) for value in (0, 512, 124439808, 1.5e9, 999999999, 5.93e12)]
    ['0', '512', '124M', '1.5B', '1B', '5.93T']
    """
    rounded = float(f"{value:.3g}")
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= size:
            return f"{rounded / size:.3g}{suffix}"
    return f"{rounded:g}"


def number(value: float, digits: int = 2) -> str:
    """Return `value` with `digits` decimals and a true minus sign, or a dash where it is not a number."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
