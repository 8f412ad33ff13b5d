"""Read feature maps, embeddings and logits of a network while it runs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from distillers.errors import InputError
from distillers.features.layout import PLAIN
from distillers.features.taps import LISTS, Place, Taps, module_at

Features = dict[str, Tensor | list[Tensor]]  # by kind; a list for `LISTS`


class FeatureExtractor:
    """Run a network and return the values at its taps, read by forward hooks.

    It is not a module, so that it can hold a frozen teacher without registering its parameters.

    Args:
        net: maps images (n, c, h, w) to logits (n, k).
        taps: where to read it.
        kinds: what to read, some of `ALL_KINDS`.

    Raises:
        InputError: if `taps` do not have one of the kinds, or name a module that does not exist.
    """

    def __init__(self, net: nn.Module, taps: Taps, kinds: Iterable[str]) -> None:
        self.net = net
        self.taps = taps
        self.kinds = sorted(set(kinds))
        check_kinds(net, taps, self.kinds)
        self._values: dict[Place, Tensor] = {}
        self._versions: dict[Place, int] = {}
        self._is_running = False
        self._handles: list[RemovableHandle] = []
        for path, side in sorted({place for kind in self.kinds for place in taps.places(kind)}):
            self._register(path, side)

    def __call__(self, images: Tensor) -> Features:
        """Run the network once on images (n, c, h, w) and return the values by kind.

        Raises:
            InputError: if a value is not a tensor or is overwritten in place after it was read, or
                if a module runs more than once or not at all.
        """
        self._values, self._versions, self._is_running = {}, {}, True
        try:
            logits = self.net(images)
            check_logits(self.net, logits, len(images), training=self.net.training)
            if not torch.compiler.is_compiling():  # the trace is checked, and is never compiled
                for place, version in self._versions.items():
                    check_intact(place, self._values[place], version)
            self._is_running = False  # class maps run the classifier again
            found = arrange(self.net, self.taps, self.kinds, self._values, logits)
            return as_type_of(images, found)
        finally:
            self._values, self._is_running = {}, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove all hooks from the network, as at the end of a `with` block."""
        for handle in self._handles:
            handle.remove()

    def _register(self, path: str, side: str) -> None:
        module = module_at(self.net, path)
        is_repeatable = (path, side) in repeatable(self.taps)

        def store(value: object) -> None:
            if not self._is_running:
                return
            if not isinstance(value, Tensor):
                raise not_a_tensor(path, type(value).__name__)
            if (path, side) in self._values and not is_repeatable:
                raise runs_repeatedly(path)
            if side == "in" and getattr(module, "inplace", False):
                value = value.clone()  # the module is about to overwrite its input
            self._values[path, side] = value
            if not torch.compiler.is_compiling():
                self._versions[path, side] = version_of(value)

        if side == "out":
            handle = module.register_forward_hook(lambda *called: store(called[2]))
        else:
            handle = module.register_forward_pre_hook(
                lambda _, args, kwargs: store(first_argument(args, kwargs)), with_kwargs=True
            )
        self._handles.append(handle)


def arrange(
    net: nn.Module,
    taps: Taps,
    kinds: Iterable[str],
    values: Mapping[Place, Tensor],
    logits: Tensor,
) -> Features:
    """Return the values of each kind from those at the single places of one forward.

    Raises:
        InputError: if there is no value at a place, because the module did not run.
    """
    layouts = dict(taps.layouts)
    head = module_at(net, taps.head) if taps.head else None
    features: Features = {}
    for kind in kinds:
        if kind == "logits":
            features[kind] = logits
            continue
        try:
            found = [(layouts.get(place, PLAIN), values[place]) for place in taps.places(kind)]
        except KeyError as missing:
            raise InputError(
                f"{missing.args[0][0]} did not run in the forward; tap another module."
            ) from None
        if kind == "pooled":
            features[kind] = embedding(head, found[0][1])
        elif kind == "final" and taps.final == taps.head:
            features[kind] = embedding(head, found[0][1])[:, :, None, None]
        elif kind == "tokens":
            features[kind] = [layout.tokens(value) for layout, value in found]
        elif kind == "class_maps":
            assert head is not None  # there are no places without it
            layout, value = found[0]
            features[kind] = class_maps(head, layout.arrange(value))
        else:
            maps = [layout.arrange(value) for layout, value in found]
            features[kind] = maps if kind in LISTS else maps[0]
    return features


def class_maps(head: nn.Module, maps: Tensor) -> Tensor:
    """Return the maps (n, k, h, w) of a linear classifier's weight, without bias, at each position.

    The classifier is called, rather than its weight read, so that a sharded one is gathered.

    Args:
        head: maps (n, d) to (n, k); or a 1 x 1 convolution.
        maps: (n, d, h, w).
    """
    maps = maps.to(next(head.parameters()).dtype)  # of a network that is run under autocast
    if isinstance(head, nn.Conv2d):
        return head(maps) - head(torch.zeros_like(maps[:1, :, :1, :1]))
    rows = head(maps.permute(0, 2, 3, 1).flatten(0, 2)) - head(torch.zeros_like(maps[:1, :, 0, 0]))
    return rows.unflatten(0, (len(maps), *maps.shape[2:])).permute(0, 3, 1, 2)


def as_type_of(images: Tensor, features: Features) -> Features:
    """Return features in the type that losses expect, that of the images or float32, if wider.

    Under autocast they keep their type. Those of a network in inference mode are copied, so that
    losses can use them.
    """
    if torch.is_autocast_enabled(images.device.type):
        return features
    dtype = torch.promote_types(images.dtype, torch.float32)

    def convert(value: Tensor) -> Tensor:
        is_fixed = not torch.compiler.is_compiling() and value.is_inference()
        return (value.clone() if is_fixed else value).to(dtype)

    return tree_map(convert, features)


def version_of(tensor: Tensor) -> int:
    """Return the version counter of a tensor, 0 for inference tensors, which have none."""
    return 0 if tensor.is_inference() else tensor._version


def first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the first argument of a call, positional or not; None if it is not a tensor."""
    first = next(iter((*args, *kwargs.values())), None)
    return first if isinstance(first, Tensor) else None


def embedding(head: nn.Module | None, inputs: Tensor) -> Tensor:
    """Return the embeddings (n, d) from the input of a classifier.

    They are the input flattened, or averaged over its positions if the classifier is applied to
    each of them.
    """
    if isinstance(head, nn.Conv2d):
        return inputs.mean((2, 3))
    if isinstance(head, nn.Linear) and inputs.ndim > 2:
        return inputs.flatten(1, -2).mean(1)
    return inputs.flatten(1)


def check_kinds(net: nn.Module, taps: Taps, kinds: Iterable[str]) -> None:
    """Check that `taps` have a place for each kind."""
    for kind in kinds:
        if kind != "logits" and not taps.places(kind):
            raise InputError(
                f"{type(net).__name__} declares no {kind} taps; name them, as in "
                f"Taps(maps={taps.maps}, head={taps.head!r}, {kind}=...)."
            )


def check_logits(
    net: nn.Module, logits: object, num_images: int, *, training: bool = False
) -> None:
    """Check that a network returned one row of numbers for each image.

    Raises:
        InputError: if it did not; the message has how to return them.
    """
    wanted = f"{type(net).__name__} must return logits (n, classes)"
    if training:
        wanted += " in training mode"
    returned = type(logits).__name__
    if not isinstance(logits, Tensor):
        how = {"dict": '["logits"]', "tuple": "[0]", "list": "[-1]"}.get(returned, ".logits")
        raise InputError(
            f"{wanted}, not a {returned}; wrap it in a module whose "
            f"forward returns them, as in `self.net(images){how}`."
        )
    if logits.ndim != 2 or len(logits) != num_images:
        raise InputError(
            f"{wanted}, not a {logits.ndim}-d tensor "
            f"{tuple(logits.shape)} for {num_images} images; wrap it in a module whose forward "
            "returns them, or set its `num_classes` to 0 if it has no classifier."
        )


def repeatable(taps: Taps) -> set[Place]:
    """Return the places whose module may run several times; the last run is read."""
    return {(path, "in") for path in taps.preacts}


def not_a_tensor(path: str, type_name: str) -> InputError:
    """Return the error for a module whose input or output is of another type."""
    return InputError(f"{path} returns a {type_name}, not a tensor; tap another module.")


def runs_repeatedly(path: str) -> InputError:
    """Return the error for a module that runs more than once."""
    return InputError(f"{path} runs more than once in a forward; tap another module.")


def check_intact(place: Place, value: Tensor, version: int) -> None:
    """Check that a value was not overwritten in place since its version counter was `version`."""
    if version_of(value) != version:
        path, side = place
        raise InputError(
            f"the {side}put of {path} is overwritten in place later in the forward; tap "
            "a later module, or build the network without inplace=True there."
        )


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put `net` in evaluation mode inside the context, and restore each module's mode after it."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
