"""Losses that learn centres of classes: the parameter, its checks, and how many centres differ."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from fastdml.backends.dtypes import accumulator
from fastdml.distances import CosineSimilarity, Distance
from fastdml.errors import InputError
from fastdml.functional import check_labels, check_rows
from fastdml.losses.centers import CLASSES_TOGETHER, CenterLayout, component_means, merged
from fastdml.losses.metric_loss import MetricLoss, SingleLosses
from fastdml.rules import RowLosses


class CenteredLoss(MetricLoss):
    """A loss that compares samples with learnt centres of classes.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        centers_per_class: K.
        ignore_index: a label whose samples do not count; None: there is none.
        weight_init_func: called with the parameter to fill it; None is the default of the loss.
        weight_regularizer: called with the centres [C K, D]; what it returns, a scalar, is added.
        weight_reg_weight: what that is multiplied with.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.metric_loss.MetricLoss`.

    The centres are a parameter of float32, which no batch casts; its gradients are of its own dtype.

    Raises:
        InputError: an argument that is not accepted.
    """

    default_distance: ClassVar[Distance] = CosineSimilarity()
    parameter_name: ClassVar[str] = "W"
    """What the centres are called, as in pytorch-metric-learning."""
    columns: ClassVar[bool] = True
    """Whether a centre is a column of the parameter."""
    normalises_centers: ClassVar[bool] = False
    """Whether centres are scaled to length one even where the distance leaves embeddings as they are."""

    class_counts: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        centers_per_class: int = 1,
        ignore_index: int | None = None,
        weight_init_func: Callable[[Tensor], Any] | None = None,
        weight_regularizer: Callable[[Tensor], Tensor] | None = None,
        weight_reg_weight: float = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.num_classes = num_classes = checked_size("num_classes", num_classes)
        self.embedding_size = embedding_size = checked_size("embedding_size", embedding_size)
        self.centers_per_class = centers_per_class = checked_size("centers_per_class", centers_per_class)
        self.ignore_index = ignore_index
        self.weight_regularizer, self.weight_reg_weight = weight_regularizer, weight_reg_weight
        if self.returns_rows and weight_regularizer is not None:
            raise InputError("reducer must be another than 'none' where there is a weight_regularizer")
        with torch.device("cpu"):  # known also where the parameter is on the meta device
            self.layout = CenterLayout(torch.full((num_classes,), centers_per_class))
        self.register_buffer("class_counts", None)
        count = num_classes * centers_per_class
        shape = (embedding_size, count) if self.columns else (count, embedding_size)
        parameter = nn.Parameter(torch.empty(shape))
        self.weight_init_func = weight_init_func
        self.fill(parameter.data)
        self.register_parameter(self.parameter_name, parameter)

    def fill(self, centers: Tensor) -> None:
        """Gives the centres, laid out as the parameter is, the values that training starts from."""
        (self.initialise if self.weight_init_func is None else self.weight_init_func)(centers)

    def initialise(self, centers: Tensor) -> None:
        """Fills the parameter where no ``weight_init_func`` is given."""
        nn.init.normal_(centers)

    @property
    def centers(self) -> nn.Parameter:
        """The parameter that holds the centres: [D, C K] where a centre is a column, else [C K, D]."""
        found: nn.Parameter = getattr(self, self.parameter_name)
        return found

    @property
    def center_rows(self) -> Tensor:
        """[C K, D], the centres of a class together: the parameter itself, or its transpose."""
        return self.centers.T if self.columns else self.centers

    def weight_regularisation(self) -> Tensor | None:
        """What ``weight_regularizer`` makes of the centres, times its weight."""
        if self.weight_regularizer is None:
            return None
        return self.weight_regularizer(self.center_rows) * self.weight_reg_weight

    @torch.no_grad()
    def centers_of(self, label: int) -> Tensor:
        """[K, D], the centres of a class as they are stored, detached."""
        if not 0 <= label < self.num_classes:
            raise InputError(f"label must be in [0, {self.num_classes}), got {label}")
        place = int(self.layout.place[label])
        bucket = next(b for b in self.layout.buckets if place < b.first_class + b.classes)
        first = bucket.first_center + (place - bucket.first_class) * bucket.per_class
        return self.center_rows[first : first + bucket.per_class].detach()

    @torch.no_grad()
    def count_centers(self, delta: float = 0.01) -> Tensor:
        """How many different centres every class has, [C] int64.

        Two centres of a class are the same where a chain of cosines above ``1 - delta`` joins them; report
        the delta with the count. SoftTriple, ICCV 2019, section 3.3.

        Args:
            delta: how far a cosine may lie below 1; in [0, 2].
        """
        delta = _checked_delta(delta)
        counts = torch.empty(len(self.layout.order), dtype=torch.int64)
        for places, units in self._unit_blocks():
            counts[self.layout.order[places]] = merged(units, delta)[1].cpu()
        return counts

    @torch.no_grad()
    def merge_centers(self, delta: float = 0.01) -> Self:
        """A new loss in which the centres that :meth:`count_centers` counts as one are one.

        Each is the mean direction of those it stands for, of length one. The new loss has of every class its
        own number of centres, evaluates and trains, and keeps the dtype and device of the centres.

        Args:
            delta: how far a cosine may lie below 1; in [0, 2].
        """
        delta = _checked_delta(delta)
        if not (self.closeness.normalised or self.normalises_centers):
            raise InputError("distance must scale centres to length one where they are to be merged")
        kept: dict[int, Tensor] = {}
        for places, units in self._unit_blocks():
            means = component_means(units, merged(units, delta)[0])
            kept |= dict(zip(self.layout.order[places].tolist(), means, strict=True))
        made = self.twin()
        made._lay_out(torch.tensor([len(kept[label]) for label in range(self.num_classes)], device="cpu"))
        ordered = torch.cat([kept[label] for label in made.layout.order.tolist()]).to(self.centers.dtype)
        centers = nn.Parameter(
            ordered.T.contiguous() if self.columns else ordered, self.centers.requires_grad
        )
        made.register_parameter(self.parameter_name, centers)
        return made

    def twin(self) -> Self:
        """A copy of everything but the parameter, which it shares."""
        return copy.deepcopy(self, {id(self.centers): self.centers})

    def set_counts(self, counts: Tensor) -> None:
        """Makes room for another number of centres of each class, [C]; what they are is then undefined.

        The parameter stays the same object, so that an optimiser goes on with it.
        """
        self._lay_out(counts)
        parameter, total, width = self.centers, self.layout.total, self.embedding_size
        parameter.data = parameter.data.new_empty((width, total) if self.columns else (total, width))
        parameter.grad = None

    def _lay_out(self, counts: Tensor) -> None:
        self.layout = CenterLayout(counts)
        self.centers_per_class = int(counts.max())
        self.class_counts = counts.to(self.centers.device)

    def _unit_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Places of classes with the same number of centres, a slice, and these, [n, K, D], of length one."""
        for bucket in self.layout.buckets:
            width = bucket.per_class * max(self.embedding_size, bucket.per_class)
            step = max(1, CLASSES_TOGETHER // width)
            for first in range(0, bucket.classes, step):
                classes = min(step, bucket.classes - first)
                at = bucket.first_center + first * bucket.per_class
                rows = self.center_rows[at : at + classes * bucket.per_class]
                units = F.normalize(rows.to(accumulator(rows.dtype)), dim=1)
                place = bucket.first_class + first
                yield slice(place, place + classes), units.unflatten(0, (classes, bucket.per_class))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        counts, centers = (state_dict.get(prefix + key) for key in ("class_counts", self.parameter_name))
        if counts is not None and centers is not None:
            self._make_room(counts.cpu(), centers)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _make_room(self, counts: Tensor, centers: Tensor) -> None:
        """For centres that are to be loaded, as many of each class as counts say."""
        if counts.shape != (self.num_classes,) or int(counts.min()) < 1:
            raise InputError(
                f"class_counts of the state_dict must be [{self.num_classes}] positive integers, "
                f"got {list(counts.shape)}"
            )
        total, width = int(counts.sum()), self.embedding_size
        wanted = [width, total] if self.columns else [total, width]
        if list(centers.shape) != wanted:
            raise InputError(
                f"{self.parameter_name} of the state_dict must have shape {wanted}, as its class_counts say, "
                f"got {list(centers.shape)}"
            )
        if self.class_counts is None or not torch.equal(counts, self.class_counts.cpu()):
            self.set_counts(counts)

    def finished(
        self,
        losses: Mapping[str, RowLosses],
        embeddings: Tensor,
        labels: Tensor,
        classes: Tensor,
        added: Tensor | None = None,
    ) -> Any:
        """The result from the losses of all kinds.

        Args:
            losses: of n samples, or of n classes.
            embeddings: [B, D] of the batch.
            labels: [B], handed to reducers that take every single loss.
            classes: [n] int64, the class of each loss.
            added: what is added once.
        """
        reduced = {} if added is None else {"weight_reg_loss": added}
        if not self.lists_losses:
            once = {name: RowLosses(one, kind="already_reduced") for name, one in reduced.items()}
            return self.regularised(self.reduced({**losses, **once}, classes), embeddings)
        singles = {name: SingleLosses(one, (), "already_reduced") for name, one in reduced.items()}
        for name, one in losses.items():
            counted = torch.ones_like(one.total) if one.count is None else one.count
            indices = counted.nonzero().flatten()
            singles[name] = SingleLosses(one.total[indices], (indices,), "element", one.divisor)
        return self.regularised(self.reduced_singly(singles, embeddings, labels), embeddings)

    def check_without_references(self, ref_emb: Any, ref_labels: Any) -> None:
        """Raises InputError unless both are None: samples are compared with centres only."""
        if ref_emb is not None or ref_labels is not None:
            raise InputError(f"ref_emb and ref_labels must be None for {type(self).__name__}")

    def check_embeddings(self, embeddings: Tensor) -> None:
        """Raises InputError unless embeddings are [B, D] on the device of the centres."""
        check_rows("embeddings", embeddings)
        if embeddings.shape[1] != self.embedding_size:
            raise InputError(
                f"embeddings must have shape [B, {self.embedding_size}], got {list(embeddings.shape)}"
            )
        if embeddings.device != self.centers.device:
            raise InputError(
                f"embeddings must be on {self.centers.device} like the centres of the loss, "
                f"got {embeddings.device}"
            )

    def checked_labels(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The labels as int64; raises InputError on labels that do not fit."""
        labels = check_labels("labels", labels, "embeddings", embeddings)
        if labels.is_cpu and len(labels) and not torch.compiler.is_compiling():
            known = (labels >= 0) & (labels < self.num_classes)
            if self.ignore_index is not None:
                known |= labels == self.ignore_index
            if not bool(known.all()):
                wrong = int(labels[~known][0])
                raise InputError(f"labels must be in [0, {self.num_classes}), got {wrong}")
        return labels


def checked_size(name: str, size: Any) -> int:
    """The size as an int; raises InputError unless it is a positive integer."""
    try:
        found = 0 if isinstance(size, bool) else operator.index(size)
    except TypeError:
        found = 0
    if found < 1:
        raise InputError(f"{name} must be a positive integer, got {size!r}")
    return found


def _checked_delta(delta: float) -> float:
    if not 0 <= delta <= 2:
        raise InputError(f"delta must be between 0 and 2, got {delta!r}")
    return delta
