"""A frozen teacher, and the faster copy of it that is read in its place."""

import copy
import inspect
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distillers.features.taps import FeatureExtractor, Taps
from distillers.models.fuse_bn import Pair, find_pairs, fold, folded

log = logging.getLogger("distillers")

# How far copy and teacher may be apart, of the largest value of what is read. Convolutions on a GPU
# may round their inputs to 10 bits.
TOLERANCE = {"cpu": 1e-4}
ELSEWHERE = 2e-2


class FrozenTeacher:
    """A teacher in evaluation mode without gradient, and what is read in its place.

    That is a copy in channels-last order in which every batch normalisation that directly follows a
    convolution or linear layer is part of it. Paths stay, so it is read where the teacher is. It is
    compared with the teacher, wherever it will be read, on `images`. A network that gives another
    result, that has nothing to fold, or whose hooks would still point to the original after a copy,
    is read itself.

    Not a module on purpose: nothing of the teacher is to be found in the task that holds this.

    Args:
        net: maps images (n, c, h, w) to logits (n, k); its mode and `requires_grad` are set, and
            nothing else of it is changed.
        taps: where to read it.
        kinds: what will be read, as `FeatureExtractor` takes it.
        images: (n, c, h, w) of the size and on the device to come. Left out, no copy is made.

    Attributes:
        net: the teacher, as given.
        reading: what is read in its place; perhaps the teacher itself.
        pairs: the layers that are one in the copy.
    """

    def __init__(
        self, net: nn.Module, taps: Taps, kinds: Iterable[str], images: Tensor | None = None
    ) -> None:
        self.net = self.fused = net.eval().requires_grad_(False)
        self.pairs: list[Pair] = []
        kinds = frozenset(kinds)
        if images is not None and kinds:
            self._prepare(taps, kinds, images)
        self.extractor = FeatureExtractor(self.fused, taps, kinds)
        self._versions = _versions(net)

    def __call__(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """What is wanted of images (n, c, h, w), by kind."""
        return self.extractor(images)

    def sync_weights(self) -> None:
        """Take over what was done to the teacher's weights since, by `load_state_dict` say."""
        if self.fused is self.net:
            return
        versions = _versions(self.net)
        if versions != self._versions:
            self._take()
            self._versions = versions

    def apply(self, fn: Any, recurse: bool = True) -> None:
        """What `nn.Module._apply` does, on both."""
        self.net._apply(fn, recurse)
        if self.fused is not self.net:
            self.fused._apply(fn, recurse)
            self._take()
            self._versions = _versions(self.net)

    def _prepare(self, taps: Taps, kinds: frozenset[str], images: Tensor) -> None:
        name = type(self.net).__name__
        if not _survives_copying(self.net):
            log.info("%s has hooks of its own and is read as it is.", name)
            return
        places = {place for kind in kinds for place in taps.places(kind)}
        pairs = find_pairs(self.net, images, places)
        if not pairs:
            return
        reading = copy.deepcopy(self.net)
        fold(reading, pairs)
        reading.eval().to(memory_format=torch.channels_last)
        if _agree(self.net, reading, taps, kinds, images):
            self.pairs, self.fused = pairs, reading
            return
        log.warning(
            "%s gives another result with its batch normalisations folded, so it is read as it is, "
            "which is slower.",
            name,
        )

    @torch.no_grad()
    def _take(self) -> None:
        """Copy the teacher's weights, the folded ones worked out anew."""
        layers = {pair.layer for pair in self.pairs}
        theirs = dict(_tensors(self.net))
        for name, tensor in _tensors(self.fused):
            if name.rpartition(".")[0] not in layers:
                tensor.copy_(theirs[name])
        for pair in self.pairs:
            layer: Any = self.fused.get_submodule(pair.layer)
            original = self.net.get_submodule(pair.layer), self.net.get_submodule(pair.norm)
            weight, bias = folded(*original)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def _agree(
    net: nn.Module, other: nn.Module, taps: Taps, kinds: frozenset[str], images: Tensor
) -> bool:
    """Whether two networks give nearly the same wherever they are read."""
    expected = _read(net, taps, kinds, images)
    try:
        found = _read(other, taps, kinds, images)
    except AttributeError as error:  # it looks at more of a layer than an identity has
        log.info("%s: %s", type(other).__name__, error)
        return False
    tolerance = TOLERANCE.get(images.device.type, ELSEWHERE)
    return all(
        float((a - b).abs().max()) <= tolerance * float(b.abs().max())
        for a, b in zip(found, expected, strict=True)
    )


@torch.no_grad()
def _read(net: nn.Module, taps: Taps, kinds: frozenset[str], images: Tensor) -> list[Tensor]:
    """Every tensor that is read of two images."""
    reader = FeatureExtractor(net, taps, kinds)
    try:
        values = reader(images[:2])
    finally:
        reader.close()
    lists = (value if isinstance(value, list) else [value] for value in values.values())
    return [tensor for each in lists for tensor in each]


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters(remove_duplicate=False)
    yield from net.named_buffers(remove_duplicate=False)


def _versions(net: nn.Module) -> list[int]:
    """How often each tensor was written to; those of inference mode are not counted."""
    return [0 if each.is_inference() else each._version for _, each in _tensors(net)]


def _survives_copying(net: nn.Module) -> bool:
    """Whether no hook of the network holds on to an object, which would be the original's."""
    return all(
        inspect.isfunction(hook) and hook.__closure__ is None
        for module in net.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    )
