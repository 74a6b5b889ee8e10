"""Pictures in the report: small, read only where shown, and in the order that the evaluation ranks them."""

from __future__ import annotations

import base64
import io
import re

import pytest
import torch
from PIL import Image

from fastdml.data import Split
from fastdml.training.evaluation import retrieve
from fastdml.training.report.gallery import retrieval_gallery, worst_queries
from fastdml.training.report.judged import first_right, nearest
from fastdml.training.report.pictures import Pictures, picture_data


class Store:
    """Images [C, H, W] of a grey of their own that are made when asked for; remembers what was read."""

    def __init__(self, count, shape):
        self.count, self.shape, self.read = count, shape, []

    def __len__(self):
        return self.count

    def __getitem__(self, rows):
        self.read += rows.tolist()
        return rows.byte()[:, None, None, None].expand(-1, *self.shape)


def make_split(images, classes=6, cameras=None):
    """Rows 0, 1, ... belong to classes 0, 1, ... in turn; all are queries and gallery."""
    everyone = torch.ones(len(images), dtype=torch.bool)
    labels = torch.arange(len(images)) % classes
    names = tuple(f"<{chr(97 + i)}>" for i in range(classes))
    return Split("s", images, labels, names, everyone, everyone, cameras=cameras)


def make_found(split, noise, dim=4):
    """The evaluation of embeddings that show the class as far as the noise lets them."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(len(split.class_names), dim, generator=generator)
    return retrieve(centres[split.labels] + noise * torch.randn(len(split), dim, generator=generator), split)


def opened(data):
    head, text = data.split(",")
    return head, Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_keep_their_pixels(channels):
    pixels = torch.randint(0, 256, (channels, 9, 7), dtype=torch.uint8)
    head, picture = opened(picture_data(pixels))
    assert head == "data:image/png;base64"
    assert picture.size == (7, 9)
    found = torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(9, 7, channels)
    assert torch.equal(found.movedim(2, 0), pixels)


def test_large_pictures_become_small_and_keep_shape_and_colours():
    pixels = torch.zeros(3, 200, 400, dtype=torch.uint8)
    pixels[0, :, :200], pixels[2, :, 200:] = 240, 120  # red on the left, blue on the right
    data = picture_data(pixels)
    head, picture = opened(data)
    assert head == "data:image/jpeg;base64"
    assert picture.size == (96, 48)
    for at, colour in (((20, 24), (240, 0, 0)), ((76, 24), (0, 0, 120))):
        assert picture.getpixel(at) == pytest.approx(colour, abs=12)
    noisy = torch.randint(0, 256, (3, 600, 900), dtype=torch.uint8)
    assert len(picture_data(noisy)) < 16_000


def test_light_strokes_on_black_are_shown_as_ink_on_paper_and_photos_as_they_are():
    dark = torch.full((4, 1, 8, 8), 30, dtype=torch.uint8)
    for images, shown in ((dark, 225), (dark + 150, 180), (dark.expand(4, 3, 8, 8), 30)):
        _, picture = opened(Pictures(make_split(images)).data(0))
        assert picture.tobytes()[0] == shown


def test_only_what_is_shown_is_read_from_a_store():
    store = Store(200, (3, 50, 40))
    split = make_split(store)
    pictures = Pictures(split)
    assert store.read == []
    pictures.image(17)
    assert store.read == [17]
    found = make_found(split, 1.0)
    store.read.clear()
    text = retrieval_gallery(found, split, seed=0)
    assert len(store.read) == text.count("<img ") < 12 * 9 + 1


def test_features_are_shown_by_the_names_of_their_classes():
    split = make_split(torch.randn(60, 5))
    found = make_found(split, 2.0)
    for text in (retrieval_gallery(found, split, seed=0), worst_queries(found, split)):
        assert "<img" not in text
        assert "data:" not in text
        assert '<span class="tile" title="&lt;a&gt;">&lt;a&gt;</span>' in text


@pytest.mark.parametrize("with_cameras", [False, True])
def test_the_nearest_stand_in_the_order_that_the_evaluation_ranks(with_cameras):
    cameras = torch.arange(90) // 6 % 3 if with_cameras else None
    split = make_split(Store(90, (1, 4, 4)), cameras=cameras)
    found = make_found(split, 1.5)
    ranks = found.result.first_hit_rank
    assert int(ranks.max()) > 8  # there is something to get wrong
    queries = torch.arange(90)
    for query, hits in enumerate(nearest(found, split, queries, 90)):
        assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
        assert query not in [hit.row for hit in hits]
        assert all(hit.right == (hit.row % 6 == query % 6) for hit in hits)
        first = next(place for place, hit in enumerate(hits) if hit.right)
        assert first + 1 == int(ranks[query])
        found_first = first_right(found, split, query)
        assert found_first.row == hits[first].row
        assert found_first.similarity == pytest.approx(hits[first].similarity, abs=1e-6)


def test_a_picture_of_the_same_camera_never_counts_as_found():
    # one class under two cameras: row 1 is the nearest of row 0, but its camera's
    cameras = torch.tensor([0, 0, 1, 0])
    split = make_split(Store(4, (1, 4, 4)), classes=1, cameras=cameras)
    found = retrieve(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]]), split)
    assert [hit.row for hit in nearest(found, split, torch.tensor([0]), 3)[0]] == [2]
    assert first_right(found, split, 0).row == 2


def test_the_worst_queries_come_worst_first_with_the_wrong_ones_before_the_right_one():
    split = make_split(Store(120, (1, 4, 4)))
    found = make_found(split, 2.0)
    ranks = found.result.first_hit_rank
    rows = worst_queries(found, split).split('<div class="hits">')[1:]
    shown = [int(re.search(r"✓ rank (\d+)<", row).group(1)) for row in rows]
    assert shown == ranks.sort(descending=True).values[:10].tolist()
    assert shown[0] > 7
    for row, rank in zip(rows, shown, strict=True):
        kinds = re.findall(r'class="hit (\w+)', row)
        assert kinds == ["wrong"] * min(7, rank - 1) + ["right"]


def test_there_are_no_worst_queries_where_all_find_a_right_image_first():
    split = make_split(Store(60, (1, 4, 4)))
    assert worst_queries(make_found(split, 0.0), split) == ""
