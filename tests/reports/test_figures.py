"""Colours and labels of figures: distinct for colour-blind readers, and without overlap."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from grpo.reports.figures import COLOURS, HUES, spread_labels
from grpo.reports.run_figures import reward_colours


def test_a_reward_has_the_same_colour_in_every_run() -> None:
    default = reward_colours(["correctness", "int", "strict_format", "soft_format", "xmlcount"])
    assert len(set(default.values())) == 5
    own = reward_colours(["brevity", "xmlcount", "correctness", "another"])
    assert own["xmlcount"] == default["xmlcount"] and own["correctness"] == default["correctness"]
    assert len(set(own.values())) == 4
    assert reward_colours(["verbatim_int"]) == {"verbatim_int": default["int"]}


# Machado, Oliveira and Fernandes (2009), severity 1: what protanopes, deuteranopes and tritanopes see of linear RGB.
SEEN = {
    "all": np.eye(3),
    "without red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "without blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(XYZ @ rgb.clip(0, 1) / XYZ.sum(1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("dark", [0, 1], ids=["light", "dark"])
def test_colour_blind_readers_can_distinguish_the_palette(dark: int) -> None:
    hues, page = [linear(COLOURS[name][dark]) for name in HUES], linear(COLOURS["page"][dark])
    for hue in hues:
        low, high = sorted(float((XYZ @ each)[1]) for each in (hue, page))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.2, 1.4.11
    for sight in SEEN.values():
        apart = [np.linalg.norm(lab(sight @ a) - lab(sight @ b)) for a, b in combinations(hues, 2)]
        assert min(apart) >= 15


def test_labels_do_not_overlap_and_are_visible() -> None:
    assert spread_labels([0.5, 0.9], [0.1, 0.1], 0, 1) == [0.5, 0.9]
    placed = spread_labels([0.99, 1.0, 0.5, 0.98, 0.0], [0.1] * 5, 0, 1)
    assert all(0.05 - 1e-9 <= height <= 0.95 + 1e-9 for height in placed)
    assert min(b - a for a, b in pairwise(sorted(placed))) >= 0.1 - 1e-9
