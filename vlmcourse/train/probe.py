"""What a simple map can read off a frozen encoder: linear probe, nearest neighbours, segmentation (slides S04, S09)."""

import warnings
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from vlmcourse._checks import check_floating, check_int, check_positive, check_rank
from vlmcourse._devices import on_cpu
from vlmcourse._precision import no_autocast
from vlmcourse.data.pictures import as_unit_range
from vlmcourse.ops._modes import evaluating
from vlmcourse.train import runtime

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
IGNORE_INDEX = 255  # as in PASCAL VOC's masks


def extract_features(
    encoder: Callable[[Tensor], Tensor],
    images: Any,
    *,
    batch_size: int = 512,
    device: str | torch.device | None = None,
) -> Tensor:
    """Return the encoder's output for every image, in evaluation mode and without gradients.

    A module comes back in its own mode, on ``device``. Pass ``encoder.feature_map`` for maps. A function of your own
    must put its networks into evaluation mode itself.

    Shapes:
        images ``(n, c, h, w)``, or clips, float or uint8 (as 0 to 1), or a dataset → ``(n, ...)`` float32 on the CPU.

    Source:
        Chen et al. 2020, section 4 (arXiv 2002.05709); slides S04 and S09.

    >>> extract_features(nn.Flatten(), torch.zeros(5, 3, 4, 4, dtype=torch.uint8)).shape
    torch.Size([5, 48])
    """
    images = getattr(images, "images", getattr(images, "clips", images))
    check_rank("images", images, "n c t h w" if getattr(images, "ndim", 0) == 5 else "n c h w")
    check_int("batch_size", batch_size)
    if images.dtype != torch.uint8:
        check_floating("images", images)
    where = torch.device(device) if device is not None else runtime.device()
    # A bound method, as encoder.feature_map is, belongs to the module that has to be held still.
    module = encoder if isinstance(encoder, nn.Module) else getattr(encoder, "__self__", None)
    rows, dtype = [], torch.float32
    if isinstance(module, nn.Module):
        held: Any = evaluating(module.to(where))
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), dtype)
    else:
        # A plain function does not show which modules it calls: a global hook looks at each of them.
        held = nn.modules.module.register_module_forward_pre_hook(_refuse_training_mode)
    with held, torch.no_grad():
        for batch in images.split(batch_size):
            batch = as_unit_range(batch.to(where)).to(dtype)
            features = encoder(batch)
            if not isinstance(features, Tensor) or features.shape[:1] != batch.shape[:1]:
                received = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
                raise ValueError(f"encoder must return one row for each of {len(batch)} images, received {received}")
            rows.append(features.detach().float().cpu())
    return torch.cat(rows)


class LinearProbe:
    """Multinomial logistic regression on frozen features, its penalty chosen on validation data.

    It minimises, on features standardised by the training set, the mean cross-entropy plus ``penalty / 2`` times the
    squared weights (not the biases), in float64: the problem is convex, so the answer does not depend on the start.

    Shapes:
        features ``(n, d)``, labels ``(n,)`` int64 from 0 to ``num_classes - 1``.

    Source:
        Chen et al. 2020, appendix B.8.1 (arXiv 2002.05709); slide S09.

    >>> labels = torch.arange(3).repeat(40)
    >>> features = torch.eye(3)[labels]
    >>> probe = LinearProbe()
    >>> _ = probe.fit(features[:60], labels[:60], features[60:90], labels[60:90])
    >>> probe.score(features[90:], labels[90:])
    1.0
    """

    def __init__(self, *, penalties: Sequence[float] = PENALTIES) -> None:
        if not penalties:
            raise ValueError("penalties must hold at least one strength to choose from, received none")
        for penalty in penalties:
            check_positive("penalties", penalty)
        self.penalties = tuple(penalties)
        self.penalty: float | None = None
        self.validation_scores: dict[float, float] = {}

    def fit(
        self, train_features: Tensor, train_labels: Tensor, validation_features: Tensor, validation_labels: Tensor
    ) -> "LinearProbe":
        """Fit one classifier per penalty on the training data and keep the one that is best on the validation data."""
        _check_features("train", train_features, train_labels)
        _check_features("validation", validation_features, validation_labels)
        # On the CPU, wherever the features lie: not every device has float64.
        train_features, validation_features = train_features.detach().cpu(), validation_features.detach().cpu()
        train_labels, validation_labels = train_labels.cpu(), validation_labels.cpu()
        _check_seen("validation", validation_labels, train_labels)
        self.seen = train_labels.unique()
        self.num_classes = int(train_labels.max()) + 1
        wide = train_features.double()
        self.mean = wide.mean(dim=0)
        deviation = wide.std(dim=0, unbiased=False)
        self.scale = torch.where(deviation > 1e-6 * self.mean.abs().clamp(min=1e-6), deviation, 1.0)  # constant: keep
        inputs = self.standardized(train_features)
        axes, variance = _principal_axes(inputs)
        inputs, judged = inputs @ axes, self.standardized(validation_features) @ axes
        best = -1.0
        weight, bias = inputs.new_zeros(self.num_classes, len(variance)), inputs.new_zeros(self.num_classes)
        self.validation_scores = {}
        for penalty in sorted(self.penalties, reverse=True):  # each starts from the smoother one before it
            weight, bias = _minimize(inputs, train_labels, weight, bias, penalty, variance)
            score = ((judged @ weight.T + bias).argmax(dim=1) == validation_labels).double().mean().item()
            self.validation_scores[penalty] = score
            if score > best:  # on a tie the stronger penalty stays
                best, self.penalty, self.weight, self.bias = score, penalty, weight @ axes.T, bias
        ends = {min(self.penalties): "weak", max(self.penalties): "strong"}
        if len(ends) > 1 and self.penalty in ends and self.validation_scores[self.penalty] < 1:
            end = ends[self.penalty]
            message = f"the best penalty, {self.penalty:g}, is the {end}est offered; add a {end}er one"
            warnings.warn(message, stacklevel=2)
        return self

    def predict(self, features: Tensor) -> Tensor:
        """Return the most likely class of each row, ``(n,)`` int64."""
        check_rank("features", features, "n d")
        return self.logits(features).argmax(dim=1).to(features.device)

    def logits(self, features: Tensor) -> Tensor:
        """Return one score per class, ``(..., num_classes)`` for features ``(..., d)``, float64 on the CPU."""
        if self.penalty is None:
            raise ValueError("the probe must be fitted before it predicts; call fit first")
        if features.shape[-1] != len(self.mean):
            raise ValueError(f"features must have width {len(self.mean)} as in training, received {features.shape[-1]}")
        return self.standardized(features) @ self.weight.T + self.bias

    def score(self, features: Tensor, labels: Tensor) -> float:
        """Return the accuracy, a fraction. On test data, call it once."""
        _check_features("test", features, labels)
        predicted = self.predict(features).cpu()
        _check_seen("test", labels.cpu(), self.seen)
        return (predicted == labels.cpu()).double().mean().item()

    def standardized(self, features: Tensor) -> Tensor:
        """Return features in units of the training set's deviation from its mean, float64 on the CPU."""
        return (features.cpu().double() - self.mean) / self.scale


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the accuracy of the k nearest neighbours by cosine, each voting with exp(cosine / temperature).

    Shapes:
        features ``(n, d)``, labels ``(n,)`` int64.

    Source:
        Wu et al. 2018, section 3.4 (arXiv 1805.01978); slide S09.

    >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> knn_accuracy(features, labels, features, labels, k=2)
    1.0
    """
    _check_features("train", train_features, train_labels)
    _check_features("test", test_features, test_labels)
    _check_seen("test", test_labels, train_labels)
    check_int("k", k)
    check_positive("temperature", temperature)
    if k > len(train_features):
        raise ValueError(f"k must be at most the number of training examples, {len(train_features)}, received {k}")
    num_classes, correct = int(train_labels.max()) + 1, 0
    known = F.normalize(train_features.float(), dim=1)
    for queries, labels in zip(test_features.split(1024), test_labels.split(1024), strict=True):
        with no_autocast(known):
            cosine, neighbor = (F.normalize(queries.float(), dim=1) @ known.T).topk(k, dim=1)
        # Relative to the nearest, so that exp stays in range at any temperature.
        vote = ((cosine - cosine[:, :1]) / temperature).exp()
        near = train_labels.to(neighbor.device)[neighbor]
        votes = vote.new_zeros(len(queries), num_classes).scatter_add_(1, near, vote)
        correct += (votes.argmax(dim=1) == labels.to(votes.device)).sum().item()
    return correct / len(test_labels)


class SegmentationProbe:
    """One linear map, the same at every location of a frozen feature map, whose logits are enlarged to the mask's size.

    Fitted like :class:`LinearProbe`, with every location of the training maps as one example, labelled by the class
    that most of its pixels have. Pixels of the class ``ignore_index`` count neither in training nor in a score.

    Shapes:
        maps ``(n, c, h', w')``, masks ``(n, h, w)`` int64, with h and w multiples of h' and w'.

    Source:
        Slide S04.

    >>> masks = torch.zeros(4, 16, 16, dtype=torch.int64)
    >>> masks[:, :8, 8:] = 1
    >>> maps = F.one_hot(masks[:, ::2, ::2], 2).permute(0, 3, 1, 2).float()
    >>> probe = SegmentationProbe().fit(maps, masks, maps, masks)
    >>> probe.score(maps, masks) > 0.7  # the border between locations is interpolated
    True
    """

    def __init__(self, *, penalties: Sequence[float] = PENALTIES, ignore_index: int = IGNORE_INDEX) -> None:
        self.probe, self.ignore_index = LinearProbe(penalties=penalties), ignore_index

    def fit(
        self, train_maps: Tensor, train_masks: Tensor, validation_maps: Tensor, validation_masks: Tensor
    ) -> "SegmentationProbe":
        """Fit on the training maps and choose the penalty on the validation maps."""
        train = _locations("train", train_maps, train_masks, self.ignore_index)
        self.probe.fit(*train, *_locations("validation", validation_maps, validation_masks, self.ignore_index))
        self.num_classes = int(train_masks[train_masks != self.ignore_index].max()) + 1
        return self

    def predict(self, maps: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Return the class of every pixel, ``(n, *size)`` int64."""
        check_rank("maps", maps, "n c h w")
        logits = self.probe.logits(rearrange(maps, "n c h w -> n h w c"))
        logits = rearrange(logits.float(), "n h w k -> n k h w")
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits.argmax(dim=1).to(maps.device)

    def score(self, maps: Tensor, masks: Tensor) -> float:
        """Return the mean intersection over union, a fraction. On test data, call it once."""
        check_rank("masks", masks, "n h w")
        predicted = self.predict(maps, size=(masks.shape[1], masks.shape[2])).to(masks.device)
        return mean_iou(predicted, masks, num_classes=self.num_classes, ignore_index=self.ignore_index)


def mean_iou(predicted: Tensor, masks: Tensor, *, num_classes: int, ignore_index: int = IGNORE_INDEX) -> float:
    """Return the mean over classes of intersection over union; a class that is in neither does not count.

    ``predicted`` and ``masks`` are int64, of one shape. Pixels whose mask is ``ignore_index`` are left out.

    Source:
        Everingham et al. 2010, the PASCAL VOC challenge, section 4.

    >>> predicted, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    >>> mean_iou(predicted, labels, num_classes=3)  # (1/2 + 2/3) / 2
    0.583...
    """
    check_int("num_classes", num_classes)
    if predicted.shape != masks.shape or predicted.numel() == 0:
        received = tuple(predicted.shape)
        raise ValueError(f"predicted must have the masks' shape {tuple(masks.shape)}, received {received}")
    _check_classes("predicted", predicted)
    counted = _counted("masks", masks, ignore_index)
    predicted, masks = predicted[counted], masks[counted]
    for name, values in (("predicted", predicted), ("masks", masks)):
        if (highest := int(values.max())) >= num_classes:
            raise ValueError(f"{name} must hold classes from 0 to {num_classes - 1}, received up to {highest}")
    pairs = torch.bincount(num_classes * masks + predicted, minlength=num_classes**2)
    confusion = rearrange(pairs, "(true guess) -> true guess", true=num_classes).cpu().double()
    intersection = confusion.diagonal()
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - intersection
    return (intersection / union)[union > 0].mean().item()


@on_cpu()
def labels_per_class(labels: Tensor, k: int, *, seed: int) -> Tensor:
    """Return the indices of k examples of every class, drawn without replacement: the few labels one has.

    Shapes:
        labels ``(n,)``, below zero where there is no label → ``(k * number of classes,)`` int64, sorted.

    >>> labels = torch.tensor([0, 1, 0, 1, 0, 1])
    >>> labels[labels_per_class(labels, 2, seed=0)].bincount()
    tensor([2, 2])
    """
    check_int("k", k)
    check_rank("labels", labels, "n")
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.empty(0, dtype=torch.int64)]
    for label in labels[labels >= 0].unique():
        members = (labels == label).nonzero().flatten().cpu()
        if len(members) < k:
            raise ValueError(f"k={k} labels per class are asked for, but class {int(label)} has {len(members)}")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:k]])
    return torch.cat(chosen).sort().values


def _refuse_training_mode(part: nn.Module, inputs: Any) -> None:
    """Raise before a layer runs in training mode, if its code asks for the mode, as dropout and BatchNorm do."""
    if not part.training:
        return
    own = type(part).__mro__[: type(part).__mro__.index(nn.Module)]
    methods = [member for kind in own for member in vars(kind).values() if isinstance(member, FunctionType)]
    if any("training" in method.__code__.co_names for method in methods):
        raise ValueError(
            f"encoder must compute in evaluation mode, but a {type(part).__name__} that it calls is in training "
            "mode; pass the network itself instead of a function, or call its .eval() first"
        )


def _principal_axes(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return principal axes ``(d, r)`` and variances ``(r,)``; outside their span inputs and best weights are zero."""
    n, d = inputs.shape
    if n < d:
        _, deviation, axes = torch.linalg.svd(inputs, full_matrices=False)
        return axes.T, deviation.square() / n
    variance, axes = torch.linalg.eigh(inputs.T @ inputs / n)
    return axes, variance.clamp(min=0)


def _minimize(
    inputs: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, penalty: float, variance: Tensor
) -> tuple[Tensor, Tensor]:
    # In these units the objective is about equally steep in every direction, and L-BFGS takes far fewer steps. One in
    # ten is the curvature of a cross-entropy over ten classes while the probe still guesses.
    unit = torch.cat([0.1 * variance + penalty, variance.new_tensor([0.1])]).rsqrt()
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1) * unit  # the last column carries the bias
    decay = penalty * unit.square()
    decay[-1] = 0.0
    target = F.one_hot(labels, len(bias)).double() / len(labels)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = rearrange(torch.from_numpy(flat), "(k d) -> k d", k=len(bias))
        log_probabilities = (inputs @ scaled.T).log_softmax(dim=1)
        loss = decay / 2 @ scaled.square().sum(dim=0) - (target * log_probabilities).sum()
        error = log_probabilities.exp() / len(labels) - target
        return loss.item(), (error.T @ inputs + decay * scaled).flatten().numpy()

    start = torch.cat([weight, bias[:, None]], dim=1) / unit
    # SciPy's OpenBLAS has threads of its own. With vectors this short they only keep PyTorch's waiting for a core.
    with ThreadpoolController().select(threading_layer="pthreads").limit(limits=1):
        found = scipy.optimize.minimize(
            loss_and_gradient, start.flatten().numpy(), jac=True, method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 10_000, "gtol": 1e-7, "ftol": 1e-14},
        )  # fmt: skip
    best = torch.from_numpy(found.x).view_as(start) * unit
    return best[:, :-1], best[:, -1]


def _locations(role: str, maps: Tensor, masks: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return every location of the maps as one example, labelled by the majority of its pixels that count."""
    check_rank(f"{role} maps", maps, "n c h w")
    check_rank(f"{role} masks", masks, "n h w")
    counted = _counted(f"{role} masks", masks, ignore_index)
    (n, _, height, width), size = maps.shape, masks.shape[1:]
    if len(masks) != n or size[0] % height or size[1] % width:
        raise ValueError(
            f"{role} masks must be {n} whose height and width are multiples of the maps' {height} × {width}, "
            f"received {tuple(masks.shape)}"
        )
    votes = F.one_hot(masks.masked_fill(~counted, 0)) * counted[..., None]
    share = reduce(votes.float(), "n (h ph) (w pw) k -> (n h w) k", "mean", h=height, w=width)
    voted = share.sum(dim=1) > 0
    return rearrange(maps, "n c h w -> (n h w) c")[voted.to(maps.device)], share.argmax(dim=1)[voted]


def _counted(name: str, masks: Tensor, ignore_index: int) -> Tensor:
    counted = masks != ignore_index
    _check_classes(name, masks[counted], f"; pixels that should not count have ignore_index={ignore_index}")
    if not counted.any():
        raise ValueError(f"{name} must have a pixel that counts, received {ignore_index=} everywhere")
    return counted


def _check_classes(name: str, classes: Tensor, hint: str = "") -> None:
    if classes.dtype != torch.int64:
        raise TypeError(f"{name} must be int64 class numbers, received {classes.dtype}; try .long()")
    if classes.numel() and int(classes.min()) < 0:
        raise ValueError(f"{name} must be class numbers from 0, received {int(classes.min())}{hint}")


def _check_seen(role: str, labels: Tensor, known: Tensor) -> None:
    unknown = labels[~torch.isin(labels, known.to(labels.device))].unique().tolist()
    if unknown:
        raise ValueError(f"{role} labels must be of classes seen in training, received {unknown[:5]}, which were not")


def _check_features(role: str, features: Tensor, labels: Tensor) -> None:
    check_floating(f"{role} features", features, "n d")
    check_rank(f"{role} labels", labels, "n")
    _check_classes(f"{role} labels", labels)
    if len(labels) != len(features):
        raise ValueError(f"{role} labels must be one for each of {len(features)} features, received {len(labels)}")
    if not features.isfinite().all():
        raise ValueError(f"{role} features must be finite, received {int((~features.isfinite()).sum())} that are not")
