"""The embeddings of some test classes in two dimensions, as inline SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.data import Split
from fastdml.training.evaluation import SplitRetrieval
from fastdml.training.report.pictures import Pictures

_CLASSES = 20
_IMAGES = 50  # of a class; t-SNE of all 1,000 takes some seconds
_FEWEST = 100  # images; of fewer, neighbourhoods of the size below are everything
_PERPLEXITY = 30
_WIDTH, _HEIGHT, _EDGE = 1000, 640, 40
_THUMBNAIL = 38  # its longer side
_APART = 42  # least distance of two thumbnails along one of the axes
_ROUNDS = 200  # of moving them apart


@dataclass(frozen=True)
class Layout:
    """Where points stand: float32 [n, 2], and by which method, for a sentence."""

    places: Tensor
    method: str


def map_rows(found: SplitRetrieval, split: Split, seed: int) -> Tensor:
    """Rows of the images that are drawn, int64: of classes that are searched for, drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    judged = torch.cat([found.query_rows, found.gallery_rows]).unique()
    labels = torch.unique(split.labels[found.query_rows])
    parts = []
    for position in torch.randperm(labels.numel(), generator=generator)[:_CLASSES].tolist():
        rows = judged[split.labels[judged] == labels[position]]
        parts.append(rows[torch.randperm(rows.numel(), generator=generator)[:_IMAGES]])
    return torch.cat(parts)


def lay_out(points: Tensor, seed: int) -> Layout:
    """Embeddings [n, D] of length one in two dimensions: by t-SNE where scikit-learn is, else by PCA."""
    if len(points) < _FEWEST:
        return _by_components(points, f"t-SNE takes {_FEWEST} images or more")
    if float(points.std(dim=0).max()) < 1e-6:
        return _by_components(points, "the images lie too near together for t-SNE")
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:
        return _by_components(points, "t-SNE needs scikit-learn: pip install 'fastdml[evaluate]'")
    with threadpool_limits(1):  # threads that wait for each other take minutes on a busy machine
        places = TSNE(perplexity=_PERPLEXITY, init="pca", random_state=seed).fit_transform(points.numpy())
    method = f"t-SNE (perplexity {_PERPLEXITY}): near is near, but far apart means little"
    return Layout(torch.as_tensor(places), method)


def _by_components(points: Tensor, reason: str) -> Layout:
    places, share = _principal(points)
    return Layout(
        places, f"the first two principal components, {100 * share:.0f} % of the variance; {reason}"
    )


def embedding_map(embeddings: Tensor, found: SplitRetrieval, split: Split, seed: int) -> tuple[str, str]:
    """The map and the sentence below it (HTML); ``embeddings`` [N, D] of the split."""
    rows = map_rows(found, split, seed)
    layout = lay_out(F.normalize(embeddings[rows].float(), dim=1), seed)
    places = _fit(layout.places)
    labels = split.labels[rows]
    pictures = Pictures(split)
    groups, tiles, anchors = [], [], []
    classes = labels.unique().tolist()
    for number, label in enumerate(classes):
        member = torch.nonzero(labels == label).squeeze(1)
        groups.append(_dots(places[member], split.class_names[label], number))
        distances = torch.cdist(places[member], places[member]).sum(dim=1)
        anchors.append(member[int(distances.argmin())])
    stands = _apart(places[torch.stack(anchors)])
    for number, (anchor, stand) in enumerate(zip(anchors, stands, strict=True)):
        tiles.append(_tile(pictures, split, int(rows[anchor]), places[anchor], stand, number))
    drawn = "drawn with the run's seed" if len(classes) == _CLASSES else "all there are"
    beside = "at the middle image stands its name" if pictures.are_features else "the middle image is shown"
    note = (
        f"{len(rows)} test images of {len(classes)} classes, {drawn}; by {escape(layout.method)}. A dot is "
        f"an image, its colour and fill are the class; of each class {beside}."
    )
    svg = (
        f'<svg class="map" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Map of the embeddings of {len(classes)} test classes">'
        f"{''.join(groups)}{''.join(tiles)}</svg>"
    )
    return svg, note


def _principal(points: Tensor) -> tuple[Tensor, float]:
    """Points [n, D] along their first two principal components [n, 2], and the share of variance in them."""
    centred = points - points.mean(dim=0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    places = F.pad(left[:, :2] * values[:2], (0, max(0, 2 - values.numel())))
    total = float(values.square().sum())
    return places, float(values[:2].square().sum()) / total if total > 0 else 1.0


def _fit(places: Tensor) -> Tensor:
    """Places [n, 2] turned so that they are widest from left to right, and scaled into the picture."""
    turned, _ = _principal(places)
    low, high = turned.min(dim=0).values, turned.max(dim=0).values
    room = torch.tensor([_WIDTH - 2.0 * _EDGE, _HEIGHT - 2.0 * _EDGE])
    scale = float((room / (high - low).clamp(min=1e-12)).min())
    return (turned - (low + high) / 2) * scale + torch.tensor([_WIDTH / 2, _HEIGHT / 2])


def _apart(places: Tensor) -> Tensor:
    """Places [n, 2] moved so that squares around them do not overlap, as far as that takes few rounds."""
    moved = places.clone()
    for _ in range(_ROUNDS):
        gap = moved[:, None] - moved[None]  # [n, n, 2]
        overlap = (_APART - gap.abs().amax(dim=2)).clamp(min=0).fill_diagonal_(0)
        if not bool(overlap.any()):
            break
        # two at the same place part along the diagonal of their numbers
        order = torch.arange(len(moved), dtype=gap.dtype)
        gap = torch.where(
            gap.abs().amax(dim=2, keepdim=True) < 1e-3, (order[:, None] - order)[..., None], gap
        )
        away = gap / gap.norm(dim=2, keepdim=True).clamp(min=1e-12)
        moved = moved + 0.5 * (overlap[..., None] * away).sum(dim=1)
        edge = _THUMBNAIL / 2 + 1
        limits = torch.tensor([_WIDTH - edge, _HEIGHT - edge])
        moved = torch.minimum(moved.clamp(min=edge), limits)
    return moved


def _colour(number: int) -> str:
    return f"hsl({36 * (number // 2) + 8} 68% var(--dot))"


def _dots(places: Tensor, name: str, number: int) -> str:
    """One class: full dots of even classes, rings of odd ones."""
    look = f"fill:{_colour(number)}" if number % 2 == 0 else f"fill:none;stroke:{_colour(number)}"
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places.tolist())
    return f'<g class="dots" style="{look}"><title>{escape(name)}</title>{dots}</g>'


def _tile(pictures: Pictures, split: Split, row: int, anchor: Tensor, stand: Tensor, number: int) -> str:
    """The image of a row at ``stand``, or its class's name, with a line to where its dot is."""
    (x, y), (dot_x, dot_y) = stand.tolist(), anchor.tolist()
    colour = _colour(number)
    line = ""
    if math.hypot(x - dot_x, y - dot_y) > _THUMBNAIL / 2:
        line = f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{dot_x:.1f}" y2="{dot_y:.1f}" style="stroke:{colour}"/>'
    name = escape(split.class_names[int(split.labels[row])])
    if pictures.are_features:
        return f'{line}<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{name}</text>'
    side = _THUMBNAIL
    box = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side}" height="{side}"'
    dash = ' stroke-dasharray="4 2"' if number % 2 else ""
    return (
        f'{line}<g class="tile"><title>{name}</title><rect class="ground" {box}/>'
        f'<image {box} href="{pictures.data(row)}" preserveAspectRatio="xMidYMid slice"/>'
        f'<rect class="frame" {box} style="stroke:{colour}"{dash}/></g>'
    )
