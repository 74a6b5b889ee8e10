"""The map of the embeddings: which images, where they stand, what is said about it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fastdml.data import Split
from fastdml.training.evaluation import retrieve
from fastdml.training.report.embedding_map import embedding_map, lay_out, map_rows


def make_split(classes, per_class, images=None):
    count = classes * per_class
    everyone = torch.ones(count, dtype=torch.bool)
    labels = torch.arange(classes).repeat_interleave(per_class)
    if images is None:
        images = torch.randint(0, 256, (count, 3, 6, 4), dtype=torch.uint8)
    return Split("s", images, labels, tuple(f"<{i}>" for i in range(classes)), everyone, everyone)


def clusters(labels, dim=16, noise=0.05):
    """Unit embeddings [N, D] around a direction of every class."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(int(labels.max()) + 1, dim, generator=generator), dim=1)
    return F.normalize(centres[labels] + noise * torch.randn(len(labels), dim, generator=generator), dim=1)


def circles(svg):
    return torch.tensor(
        [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', svg)]
    )


def test_some_images_of_some_classes_that_are_searched_for_are_drawn():
    split = make_split(30, 60)
    only_gallery = split.labels < 8
    split = replace(split, is_query=~only_gallery, is_gallery=torch.arange(1800) % 60 != 7)
    neither = torch.arange(1800) % 60 == 7
    split = replace(split, is_query=split.is_query & ~neither)
    found = retrieve(clusters(split.labels), split)
    rows = map_rows(found, split, 0)
    classes, sizes = split.labels[rows].unique(return_counts=True)
    assert len(classes) == 20
    assert sizes.tolist() == [50] * 20
    assert rows.unique().numel() == rows.numel()
    assert int(classes.min()) >= 8  # those that nobody searches for are distractors
    assert not neither[rows].any()
    assert torch.equal(rows, map_rows(found, split, 0))
    assert not torch.equal(rows, map_rows(found, split, 1))


def test_t_sne_keeps_neighbours_together():
    pytest.importorskip("sklearn")
    labels = torch.arange(5).repeat_interleave(20)
    layout = lay_out(clusters(labels), seed=0)
    assert layout.method.startswith("t-SNE")
    distance = torch.cdist(layout.places, layout.places).fill_diagonal_(torch.inf)
    assert (labels[distance.argmin(dim=1)] == labels).float().mean() > 0.98


def test_without_scikit_learn_the_principal_components_are_drawn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(150, 2, generator=generator).double() * torch.tensor([3.0, 1.0])
    plane = torch.linalg.qr(torch.randn(8, 8, generator=generator).double())[0][:2]
    layout = lay_out(flat @ plane + 5.0, seed=0)
    assert "pip install 'fastdml[evaluate]'" in layout.method
    assert "100 % of the variance" in layout.method
    assert layout.places[:, 0].std() > layout.places[:, 1].std()
    torch.testing.assert_close(torch.cdist(layout.places, layout.places), torch.cdist(flat, flat))


@pytest.mark.parametrize(
    "points",
    [F.normalize(torch.arange(60.0).view(20, 3) + 1, dim=1), torch.ones(150, 3), torch.ones(1, 3)],
    ids=["few", "collapsed", "one"],
)
def test_what_t_sne_cannot_draw_is_drawn_all_the_same(points):
    layout = lay_out(points, seed=0)
    assert layout.places.shape == (len(points), 2)
    assert layout.places.isfinite().all()
    assert "principal components" in layout.method


def test_every_image_is_a_dot_in_its_class_and_inside_the_picture():
    split = make_split(5, 9)
    embeddings = clusters(split.labels, noise=0.3)
    svg, note = embedding_map(embeddings, retrieve(embeddings, split), split, seed=0)
    assert note.startswith("45 test images of 5 classes, all there are; by the first two principal")
    groups = svg.split('<g class="dots"')[1:]
    assert [group.count("<circle") for group in groups] == [9] * 5
    assert [re.search("<title>(.*?)</title>", group).group(1) for group in groups] == [
        f"&lt;{i}&gt;" for i in range(5)
    ]
    places = circles(svg)
    assert (places >= 0).all()
    assert (places <= torch.tensor([1000.0, 640.0])).all()
    assert (places.amax(dim=0) - places.amin(dim=0)).max() > 400  # the room is used
    together = torch.cdist(places[:9], places[:9]).mean()
    assert together < torch.cdist(places[:9], places[9:]).mean()


def test_a_class_is_shown_once_beside_others_and_not_above_them():
    split = make_split(12, 4)
    embeddings = F.normalize(torch.ones(48, 8) + 1e-3 * torch.randn(48, 8), dim=1)  # all of them in one heap
    svg, _ = embedding_map(embeddings, retrieve(embeddings, split), split, seed=0)
    boxes = torch.tensor(
        [(float(x), float(y)) for x, y in re.findall(r'<image x="([\d.-]+)" y="([\d.-]+)"', svg)]
    )
    assert len(boxes) == 12
    apart = (boxes[:, None] - boxes[None]).abs().amax(dim=2).fill_diagonal_(torch.inf)
    assert apart.min() > 38  # their side
    assert (boxes >= 0).all()
    assert (boxes + 38 <= torch.tensor([1000.0, 640.0])).all()


def test_classes_of_features_are_named():
    split = make_split(4, 5, images=torch.randn(20, 7))
    svg, note = embedding_map(split.images, retrieve(split.images, split), split, seed=0)
    assert "<image" not in svg
    assert [svg.count(f">&lt;{i}&gt;</text>") for i in range(4)] == [1] * 4
    assert "stands its name" in note
