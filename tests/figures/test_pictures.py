"""Figures: size, fonts, colors, reproducible bytes, and the selection of what is shown."""

import csv
import io
import itertools
import re
import zlib
from types import SimpleNamespace

import matplotlib as mpl
import pytest
import torch
from PIL import Image

from distillers.data.batch import Batch
from distillers.figures import (
    changed_hands,
    cka,
    class_gain,
    correlation,
    mean_logits,
    paper,
    reliability,
    tsne,
)
from distillers.figures.calibration import bin_by_confidence
from distillers.figures.responses import Responses

N, NAMES = 120, ("airplane", "automobile", "bird", "a very long name of a class", "deer")
LABELS = torch.arange(N) % len(NAMES)


def respond(name, seed, margin=2.0):
    rng = torch.Generator().manual_seed(seed)
    own = margin * torch.eye(len(NAMES))[LABELS]
    logits = torch.randn(N, len(NAMES), generator=rng) + own
    pooled = torch.randn(N, 8, generator=rng) + 2 * torch.eye(8)[LABELS]
    return Responses(name, logits, pooled, LABELS)


TEACHER, ALONE, ONE, TWO = (respond(*each) for each in zip(("resnet32x4", "alone", "kd", "crd"),
    range(4), (4.0, 1.0, 2.0, 2.5), strict=True))  # fmt: skip
IMAGES = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def similarity():
    result = cka.CKA()
    rng = torch.Generator().manual_seed(0)
    result.add([torch.randn(30, 6, generator=rng) for _ in range(9)])
    places = [cka.Stages(name, ("stage 1", "pooled", "logits")) for name in ("teacher", "a", "b")]
    return result, places


def hands():
    batches = [Batch(IMAGES, LABELS, torch.arange(N))]
    plain = SimpleNamespace(mean=(0.0,) * 3, std=(1.0,) * 3)
    return tuple(
        changed_hands.images_at(places, batches, plain)
        for places in changed_hands.select_examples(ONE, ALONE)
    )


PLOT = {
    "correlation": lambda: correlation.plot(TEACHER, [ALONE, ONE, TWO], NAMES),
    "mean_logits": lambda: mean_logits.plot(TEACHER, [ALONE, ONE], NAMES),
    "tsne": lambda: tsne.plot([TEACHER, ONE], NAMES, num_images=60),
    "cka": lambda: cka.plot(*similarity()),
    "reliability": lambda: reliability.plot([TEACHER, ALONE, ONE, TWO]),
    "class_gain": lambda: class_gain.plot(ALONE, [ONE, TWO], NAMES),
    "changed_hands": lambda: changed_hands.plot(ONE, ALONE, NAMES, hands()),
}


@pytest.fixture(scope="module", params=PLOT)
def saved(request, tmp_path_factory):
    """A figure and the folder it was saved to."""
    folder = tmp_path_factory.mktemp(request.param)
    with paper.paper_style():
        drawn = PLOT[request.param]()
        paper.save_figure(drawn, folder)
    return drawn, folder


def test_a_figure_is_a_column_wide_and_embeds_its_fonts(saved):
    drawn, folder = saved
    png, pdf = (folder / f"{drawn.name}.{form}" for form in ("png", "pdf"))
    with Image.open(png) as image:
        assert image.width == round(3.3 * paper.DPI)
        assert image.height < 2.2 * image.width
        assert image.text["Description"] == drawn.caption
    content = pdf.read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    inside = content + b"".join(zlib.decompress(s) for s in streams if s[:1] == b"\x78")
    assert b"/FontFile2" in inside
    assert b"/Type3" not in inside
    assert b"CreationDate" not in inside


def test_text_is_legible_and_not_cut_off(saved):
    drawn, _ = saved
    with paper.paper_style():
        drawn.figure.draw_without_rendering()
        texts = [text for text in drawn.figure.findobj(mpl.text.Text) if text.get_text()]
        assert texts
        assert all(5.5 <= text.get_fontsize() <= 7 for text in texts)
        box, (width, height) = drawn.figure.get_tightbbox(), drawn.figure.get_size_inches()
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01


def test_the_data_are_saved_with_the_figure(saved):
    drawn, folder = saved
    rows = list(csv.DictReader(io.StringIO((folder / f"{drawn.name}.csv").read_text())))
    assert len(rows) == len(drawn.table) > 5
    for row, kept in zip(rows, drawn.table.to_dict("records"), strict=True):
        values = {key: "" if value != value else str(value) for key, value in kept.items()}
        assert row == values
    assert 100 < len(drawn.caption) < 700


def test_the_same_figure_has_the_same_bytes(saved, tmp_path):
    drawn, folder = saved
    with paper.paper_style():
        for path in paper.save_figure(PLOT[drawn.name](), tmp_path):
            assert path.read_bytes() == (folder / path.name).read_bytes()


def test_the_settings_of_matplotlib_are_restored():
    with mpl.rc_context({"font.size": 23}):
        with paper.paper_style():
            assert mpl.rcParams["font.size"] == 7
            assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["font.size"] == 23


# Simulated color vision deficiency of severity 1: Machado, Oliveira and Fernandes 2009.
BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}


def lab(color, blindness):
    """Return the perceived CIE L*a*b* values of an sRGB color."""
    srgb = torch.tensor([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=torch.float64)
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = (torch.tensor(blindness, dtype=torch.float64) @ linear).clamp(0, 1)
    to_xyz = torch.tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
        dtype=torch.float64,
    )
    x, y, z = (to_xyz @ seen / to_xyz.sum(1)).tolist()
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
    return torch.tensor([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colors_are_distinguishable_without_red_or_green(kind):
    seen = [lab(color, BLINDNESS[kind]) for color in paper.COLORS]
    assert min(float((a - b).norm()) for a, b in itertools.combinations(seen, 2)) > 11
    # Ten tints cannot all differ; each has its own marker.
    tints = [lab(color, BLINDNESS[kind]) for color in tsne.TINTS]
    pairs = list(itertools.combinations(range(len(tints)), 2))
    assert sum(float((tints[a] - tints[b]).norm()) > 11 for a, b in pairs) >= 0.9 * len(pairs)
    assert len(set(paper.MARKERS)) == len(tsne.TINTS)


def test_reliability_bins_add_up():
    confidence = torch.tensor([0.1, 0.2, 0.21, 0.9, 1.0], dtype=torch.float64)
    right = torch.tensor([True, False, True, True, True])
    bins = bin_by_confidence(confidence, right, 5)
    assert bins.count.tolist() == [2, 1, 0, 0, 2]
    assert bins.correct.tolist() == [1, 1, 0, 0, 2]
    assert bins.confidence.tolist() == pytest.approx([0.3, 0.21, 0, 0, 1.9])
    rows = PLOT["reliability"]().table.query("network == 'kd'").to_dict("records")
    probabilities, classes = ONE.logits.double().softmax(1).max(1)
    for row in rows:
        inside = [
            i for i in range(N) if row["above"] < float(probabilities[i]) <= row["up_to"] + 1e-12
        ]
        assert row["images"] == len(inside)
        if inside:
            is_right = [int(classes[i] == LABELS[i]) for i in inside]
            assert row["accuracy"] == pytest.approx(sum(is_right) / len(inside))


def test_images_won_and_lost_are_sorted_by_probability_difference():
    won, lost = changed_hands.changed_images(ONE, ALONE)
    here, there = (each.logits.argmax(1) == LABELS for each in (ONE, ALONE))
    assert set(won.tolist()) == {i for i in range(N) if here[i] and not there[i]}
    assert set(lost.tolist()) == {i for i in range(N) if there[i] and not here[i]}
    margin = [
        float(ONE.logits.double()[i].softmax(0)[LABELS[i]])
        - float(ALONE.logits.double()[i].softmax(0)[LABELS[i]])
        for i in range(N)
    ]
    assert won.tolist() == sorted(won.tolist(), key=lambda i: -margin[i])
    assert lost.tolist() == sorted(lost.tolist(), key=lambda i: margin[i])


def test_images_are_found_in_any_batch_and_denormalized():
    source = SimpleNamespace(mean=(0.4,) * 3, std=(0.25,) * 3)
    seen = (IMAGES - 0.4) / 0.25
    rows = torch.arange(N).split(32)
    batches = [Batch(seen[part], LABELS[part], part) for part in rows]
    places = torch.tensor([70, 3, 119])
    found = changed_hands.images_at(places, iter(batches), source)
    torch.testing.assert_close(found, IMAGES[places])
    assert not len(changed_hands.images_at(places[:0], batches, source))


def test_two_networks_that_agree_give_an_empty_table(tmp_path):
    none = torch.empty(0, 3, 8, 8)
    with paper.paper_style():
        drawn = changed_hands.plot(ONE, ONE, NAMES, (none, none))
        paper.save_figure(drawn, tmp_path)
    assert "0 were won and 0 lost" in drawn.caption
    assert (tmp_path / "changed_hands.csv").read_text() == ",".join(drawn.table.columns) + "\n"


def test_tsne_selects_equally_many_images_of_each_class_and_is_reproducible():
    labels = torch.arange(1000) % 25
    rows = tsne.select_images(labels, 10, 200, seed=0)
    assert sorted(labels[rows].bincount(minlength=25).tolist()) == [0] * 15 + [20] * 10
    assert torch.equal(rows, tsne.select_images(labels, 10, 200, seed=0))
    assert not torch.equal(rows, tsne.select_images(labels, 10, 200, seed=1))
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    features += 8 * torch.eye(5)[torch.arange(60) % 5]
    places = tsne.embed(features, seed=0)
    assert torch.equal(places, tsne.embed(features, seed=0))
    nearest = torch.cdist(places, places).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(nearest % 5, torch.arange(60) % 5)


def test_many_classes_still_fit():
    names = tuple(f"class {i}" for i in range(100))
    labels = torch.arange(1000) % 100
    rng = torch.Generator().manual_seed(0)
    one, two = (
        Responses(n, torch.randn(1000, 100, generator=rng), None, labels) for n in ("a", "b")
    )
    with paper.paper_style():
        drawn = class_gain.plot(two, [one], names)
        drawn.figure.draw_without_rendering()
        (axes,) = drawn.figure.axes
        assert len(axes.get_yticklabels()) == 30
        assert len(drawn.table) == 100
        assert "30 classes of 100 that change most" in drawn.caption
        (matrix, *_) = correlation.plot(one, [two], names).figure.axes
        assert not matrix.get_yticklabels()
