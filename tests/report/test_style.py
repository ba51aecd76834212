"""Colours can be told apart by everyone and on both pages; ticks and wrapped titles stay inside what they are for."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from decondense.report import style

# Machado, Oliveira & Fernandes (2009), severity 1: what a viewer without one kind of cone sees of linear RGB.
VISION = {
    "trichromat": numpy.eye(3),
    "protanope": numpy.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranope": numpy.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanope": numpy.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
LUMINANCE = numpy.array([0.2126729, 0.7151522, 0.0721750])
TO_XYZ = numpy.array([[0.4124564, 0.3575761, 0.1804375], LUMINANCE, [0.0193339, 0.1191920, 0.9503041]])


def linear(colour: str) -> NDArray[numpy.float64]:
    values = numpy.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return numpy.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(linear(colour) @ LUMINANCE) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    scaled = TO_XYZ @ numpy.clip(colour, 0, 1) / numpy.array([0.95047, 1.0, 1.08883])
    root = numpy.where(scaled > 216 / 24389, numpy.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    return numpy.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_text_stand_out_from_the_page(theme: str) -> None:
    page = style.THEMES[theme]["page"]
    # WCAG 2.2 asks 3 of graphics and 4.5 of text.
    assert all(contrast(getattr(look, theme), page) >= 3 for look in style.PALETTE)
    assert all(contrast(style.THEMES[theme][name], page) >= 4.5 for name in ("text", "muted", "accent"))
    assert contrast(style.THEMES[theme]["text"], style.THEMES[theme]["accent_soft"]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewer", VISION)
def test_arms_are_told_apart_by_every_viewer(viewer: str, theme: str) -> None:
    seen = [lab(VISION[viewer] @ linear(getattr(look, theme))) for look in style.PALETTE]
    distances = {
        pair: float(numpy.linalg.norm(seen[pair[0]] - seen[pair[1]]))
        for pair in itertools.combinations(range(len(seen)), 2)
    }
    # CIE76 distances: 2.3 is just noticed side by side; 10 is seen at a glance, 20 for the three arms of every figure.
    assert min(distances.values()) >= 10, distances
    assert min(distances[pair] for pair in [(0, 1), (0, 2), (1, 2)]) >= 20, distances


def test_no_two_arms_share_a_dash() -> None:
    assert (
        len({look.dash for look in style.PALETTE}) == len({look.marker for look in style.PALETTE}) == len(style.PALETTE)
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_more_density_is_always_darker_on_paper_and_lighter_on_a_dark_page(theme: str) -> None:
    lightness = [
        lab(linear(style.blend(style.DENSITY_COLOURS[theme], place)))[0] for place in numpy.linspace(0, 1, 101)
    ]
    assert numpy.all(numpy.diff(lightness) * (-1 if theme == "light" else 1) > 0)


@given(
    st.lists(
        st.sampled_from(["cross_entropy", "dispersion", "effective_rank", "uniformity", "koleo", "mine"]), unique=True
    )
)
def test_an_arm_keeps_its_place_whatever_stands_beside_it(names: list[str]) -> None:
    looks = style.line_styles(names)
    assert len({look.light for look in looks}) == len(names)
    for name, index in style.RESERVED.items():
        if name in names:
            assert looks[names.index(name)] is style.PALETTE[index]


def test_an_arm_looks_the_same_under_its_name_and_its_label() -> None:
    names = list(style.RESERVED)
    assert style.line_styles([style.label(name) for name in names]) == style.line_styles(names)


def test_one_name_twice_has_one_look() -> None:
    first, other, again = style.line_styles(["a", "b", "a"])
    assert first is again is not other


@given(st.floats(0, 1e9))
def test_ticks_of_steps_rise_within_the_axis_and_are_few(last: float) -> None:
    ticks = [value for value, _ in style.step_ticks(last)]
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-1] <= max(last, 1)


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6))
def test_ticks_of_a_logarithmic_axis_lie_on_it_and_are_enough_to_read_it(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = style.log_ticks(low, high)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 13
    # An even step is rounded at the twelfth decimal, which may carry a tick past the end by as much.
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)


@given(st.text(st.sampled_from("abW /-_1."), max_size=60), st.floats(0.5, 4))
def test_wrapping_loses_nothing_but_spaces_and_fits(text: str, width_inches: float) -> None:
    lines = style.wrap(text, width_inches, 11.0)
    assert "".join(lines.split()) == "".join(text.split())
    # No letter is wider than 0.74 font sizes.
    assert all(len(line) * 0.36 <= max(width_inches * 72 / 11, 0.74) for line in lines.split("\n"))


def test_a_number_that_is_not_one_is_a_dash() -> None:
    assert style.number(math.nan) == "–"
    assert style.number(-0.125, 3) == "−0.125"
