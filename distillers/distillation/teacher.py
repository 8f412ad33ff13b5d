"""Hold a frozen teacher, and run a faster, fused copy of it."""

import copy
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from distillers.features.extractor import FeatureExtractor, Features, version_of
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.models.fuse_bn import FusiblePair, find_pairs, fuse, fuse_weights

log = logging.getLogger("distillers")

# Largest difference between teacher and copy, relative to the largest value. On a GPU, convolutions
# may round their inputs to 10 bits (TF32).
TOLERANCE = {"cpu": 1e-4}
DEFAULT_TOLERANCE = 2e-2
REDUCED = (torch.bfloat16, torch.float16)  # of the weights; such a teacher is not fused


class FrozenTeacher:
    """A teacher in evaluation mode without gradient, read through a faster copy where possible.

    In the copy, each batch normalization that directly follows a convolution or linear layer is
    fused into it, and the memory format is channels-last. Module paths stay the same. The copy is
    compared with the traced teacher at all places where it is read. The teacher itself is run if
    the copy differs, if there is nothing to fuse, or if a hook of the teacher refers to an object,
    which would be shared with the copy.

    It is not a module, so that the task that holds it does not contain the teacher's parameters.

    Args:
        net: maps images (n, c, h, w) to logits (n, k). Its mode and `requires_grad` are set.
        taps: where to read it.
        kinds: what to read; see `FeatureExtractor`.
        trace: of `net`, with the size and device of the training images. If left out, no copy is
            made.

    Attributes:
        net: the teacher.
        fused: the network that is run, the copy or the teacher itself.
        pairs: the layers that are fused in the copy.
        extractor: reads `fused`.
    """

    def __init__(
        self, net: nn.Module, taps: Taps, kinds: Iterable[str], trace: ForwardTrace | None = None
    ) -> None:
        self.net = self.fused = net.eval().requires_grad_(False)
        self.pairs: list[FusiblePair] = []
        kinds = frozenset(kinds)
        self._is_reduced = any(p.dtype in REDUCED for p in net.parameters())
        if trace is not None and kinds and not self._is_reduced:
            self._fuse(trace, taps, kinds)
        self.extractor = FeatureExtractor(self.fused, taps, kinds)
        self._versions = _versions(net)

    def __call__(self, images: Tensor) -> Features:
        """Return the features of images (n, c, h, w) by kind."""
        return self._in_float32(self.extractor(images))

    def read_trace(self, trace: ForwardTrace) -> Features:
        """Return the same features of the images of a trace, without another forward pass."""
        return self._in_float32(trace.read(self.extractor.taps, self.extractor.kinds))

    def _in_float32(self, features: Features) -> Features:
        """Return the features of a teacher of reduced precision in float32, as losses expect."""
        if not self._is_reduced:
            return features
        return tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, features)

    def sync_weights(self) -> None:
        """Update the copy if the weights of the teacher have changed, e.g. by `load_state_dict`."""
        if self.fused is not self.net and _versions(self.net) != self._versions:
            self._copy_weights()

    def apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Apply `nn.Module._apply`, and with it `.to(...)`, to the teacher and its copy."""
        self.net._apply(fn, recurse)
        if self.fused is not self.net:
            self.fused._apply(fn, recurse)
            self._copy_weights()

    def _fuse(self, trace: ForwardTrace, taps: Taps, kinds: frozenset[str]) -> None:
        name = type(self.net).__name__
        if not _has_copyable_hooks(self.net):
            log.info("%s has hooks that a copy would share; it is run without fused layers.", name)
            return
        pairs = find_pairs(trace, {place for kind in kinds for place in taps.places(kind)})
        if not pairs:
            return
        fused = copy.deepcopy(self.net)
        fuse(fused, pairs)
        fused.eval().to(memory_format=torch.channels_last)
        if _agrees(fused, trace, taps, kinds):
            self.pairs, self.fused = pairs, fused
            return
        log.warning(
            "%s has a different output with fused batch normalizations; it is run without them, "
            "which is slower.",
            name,
        )

    @torch.no_grad()
    def _copy_weights(self) -> None:
        """Copy the weights of the teacher, and compute the fused ones again."""
        layers = {pair.layer for pair in self.pairs}
        originals = dict(_tensors(self.net))
        for name, tensor in _tensors(self.fused):
            if name.rpartition(".")[0] not in layers:
                tensor.copy_(originals[name])
        for pair in self.pairs:
            layer: Any = self.fused.get_submodule(pair.layer)
            weight, bias = fuse_weights(
                self.net.get_submodule(pair.layer), self.net.get_submodule(pair.norm)
            )
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        self._versions = _versions(self.net)


@torch.no_grad()
def _agrees(fused: nn.Module, trace: ForwardTrace, taps: Taps, kinds: frozenset[str]) -> bool:
    """Return whether the features of the copy are close to those of the traced network."""
    try:
        with FeatureExtractor(fused, taps, kinds) as extractor:
            found = tree_leaves(extractor(trace.images))
    except AttributeError as error:  # it uses an attribute that the fused layer does not have
        log.info("%s: %s", type(fused).__name__, error)
        return False
    tolerance = TOLERANCE.get(trace.images.device.type, DEFAULT_TOLERANCE)
    return all(
        float((a - b).abs().max()) <= tolerance * float(a.abs().max())
        for a, b in zip(tree_leaves(trace.read(taps, kinds)), found, strict=True)
    )


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters(remove_duplicate=False)
    yield from net.named_buffers(remove_duplicate=False)


def _versions(net: nn.Module) -> list[int]:
    """Return the version counter of each tensor, 0 for inference tensors, which have none."""
    return [version_of(each) for _, each in _tensors(net)]


def _has_copyable_hooks(net: nn.Module) -> bool:
    """Return whether no hook refers to an object, which a copy of the network would share."""
    return all(
        inspect.isfunction(hook) and hook.__closure__ is None
        for module in net.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    )
