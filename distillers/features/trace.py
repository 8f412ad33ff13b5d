"""Record one forward pass of a network: input and output of every module call, in order."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from distillers.errors import InputError, first_line
from distillers.features.backbone import HeadedNetwork
from distillers.features.dataflow import Dataflow
from distillers.features.extractor import (
    Features,
    arrange,
    as_type_of,
    check_intact,
    check_kinds,
    check_logits,
    eval_mode,
    first_argument,
    not_a_tensor,
    repeatable,
    runs_repeatedly,
    version_of,
)
from distillers.features.taps import Place, Taps, module_at
from distillers.features.unwrap import unwrap


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: dotted path of the module.
        module: the module.
        input: its first argument, if that is a tensor.
        input_version: version counter of `input` at the start of the call.
        input_copy: copy of `input` at the start of the call, if the module overwrites its input.
        output: its output.
        output_version: version counter of `output` at the end of the call.
    """

    path: str
    module: nn.Module
    input: Tensor | None
    input_version: int
    input_copy: Tensor | None
    output: Tensor
    output_version: int

    @property
    def intact(self) -> bool:
        """Whether the output was not overwritten until the end of the forward pass."""
        return version_of(self.output) == self.output_version

    @property
    def depth(self) -> int:
        """Nesting depth of the module, 0 for a child of the network."""
        return self.path.count(".")


@dataclass(frozen=True)
class Shapes:
    """Widths and sizes of the features of a network, which losses are built from.

    Attributes:
        channels: channels of each stage map; empty for a network without maps.
        sizes: (h, w) of each stage map.
        dim: width of the pooled embedding; 0 for a network without one.
        num_classes: width of the logits.
    """

    channels: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    dim: int
    num_classes: int


class ForwardTrace:
    """Run a network once on two images, in evaluation mode, and record the calls of its modules.

    Args:
        net: maps images (n, c, h, w) to logits (n, k).
        images: (n, c, h, w), any content, of the size that the network will get.
        with_grad: record the graph of the gradient.

    Attributes:
        net: the network.
        images: the first two images.
        inner: path and module of the network inside its wrappers; see `unwrap`.
        inner_images: images that the inner network gets, which a wrapper may have resized.
        num_prefix_tokens: tokens before those of the image, if the network has the attribute of
            this name, as those of timm do.
        logits: (2, k).
        dataflow: which functions took each tensor, and what affects it.
        calls: the calls whose output is a tensor, in the order in which they ended.

    Raises:
        InputError: if the network does not return logits.
    """

    def __init__(self, net: nn.Module, images: Tensor, *, with_grad: bool = False) -> None:
        self.net = net
        self.images = self.inner_images = images[:2]
        self.inner = unwrap(net)
        self.num_prefix_tokens = _num_prefix_tokens(net)
        self.calls: list[Call] = []
        self._num_calls: Counter[str] = Counter()
        self._other_outputs: dict[str, str] = {}
        _check_not_compiled(net)
        if any(map(is_lazy, net.parameters())):
            net(self.images)  # makes the parameters
        self.dataflow = Dataflow(net, self.images)
        with torch.set_grad_enabled(with_grad):
            self.logits = self._run()
        if not bool(torch.isfinite(self.logits).all()):
            raise InputError(
                f"{type(self.inner[1]).__name__} returns logits that are not finite (NaN or "
                "infinite); take an earlier checkpoint, or images normalized as it expects."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the images that the inner network gets, or resizes them to itself."""
        images = self.inner_images
        for call in self.calls:
            if isinstance(call.module, nn.Conv2d) and call.input is not None:
                if call.input.shape[1] == images.shape[1]:
                    images = call.input
                break
        return images.shape[2], images.shape[3]

    def is_computed(self, tensor: Tensor | None) -> bool:
        """Return whether a tensor depends on a parameter of the network, unlike the images."""
        return tensor is not None and self.dataflow.is_affected(tensor)

    def ran_once(self, path: str) -> bool:
        """Return whether a module ran exactly once."""
        return self._num_calls[path] == 1

    def input_of(self, path: str) -> Tensor | None:
        """Return the input of a module's first call; None if it did not run or took no tensor."""
        return next((call.input for call in self.calls if call.path == path), None)

    def readable(self) -> list[Call]:
        """Return the calls of modules that ran once, with an intact output of one row per image."""
        n = len(self.images)
        return [
            call
            for call in self.calls
            if call.intact and self.ran_once(call.path) and call.output.shape[:1] == (n,)
        ]

    def read(self, taps: Taps, kinds: Iterable[str]) -> Features:
        """Return what a `FeatureExtractor` returns for the images, without another forward pass."""
        kinds = sorted(set(kinds))
        check_kinds(self.net, taps, kinds)
        values = {}
        for place in {place for kind in kinds for place in taps.places(kind)}:
            value = self._value_at(place, place in repeatable(taps))
            if value is not None:
                values[place] = value
        return as_type_of(self.images, arrange(self.net, taps, kinds, values, self.logits))

    def shapes(self, taps: Taps) -> Shapes:
        """Return widths and sizes of the features at `taps`.

        Raises:
            InputError: if they cannot be read, or a stage map is not (n, c, h, w).
        """
        kinds = [kind for kind in ("maps", "pooled") if taps.places(kind)]
        features = self.read(taps, kinds)
        maps, pooled = features.get("maps", []), features.get("pooled")
        for path, each in zip(taps.maps, maps, strict=True):
            if each.ndim != 4:
                raise InputError(
                    f"{path} returns a {each.ndim}-d tensor, a stage map needs (n, c, h, w)."
                )
        return Shapes(
            channels=tuple(each.shape[1] for each in maps),
            sizes=tuple((each.shape[2], each.shape[3]) for each in maps),
            dim=pooled.shape[1] if isinstance(pooled, Tensor) else 0,
            num_classes=self.logits.shape[1],
        )

    def _value_at(self, place: Place, is_repeatable: bool) -> Tensor | None:
        """Return the input or output of a module, or None if it did not run."""
        path, side = place
        module_at(self.net, path)
        if path in self._other_outputs:
            raise not_a_tensor(path, self._other_outputs[path])
        calls = [call for call in self.calls if call.path == path]
        if not calls:
            return None
        if len(calls) > 1 and not is_repeatable:
            raise runs_repeatedly(path)
        call = calls[-1]
        if side == "out":
            check_intact(place, call.output, call.output_version)
            return call.output
        if call.input is None:
            raise InputError(f"the input of {path} is not a tensor; tap another module.")
        if call.input_copy is not None:
            return call.input_copy
        check_intact(place, call.input, call.input_version)
        return call.input

    def _run(self) -> Tensor:
        started: dict[str, list[tuple[Tensor | None, int, Tensor | None]]] = {}
        handles = []
        for path, module in self.net.named_modules():
            if not path or isinstance(module, torch.jit.RecursiveScriptModule):
                continue  # a scripted module takes no hooks

            def before(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                path: str = path,
            ) -> None:
                first = first_argument(args, kwargs)
                if path == self.inner[0] and first is not None and first.ndim == 4:
                    self.inner_images = first
                version = -1 if first is None else version_of(first)
                copy = None
                if first is not None and getattr(module, "inplace", False):
                    with torch._C.DisableTorchFunction():  # a use of ours, not of the network
                        copy = first.clone()
                started.setdefault(path, []).append((first, version, copy))

            def after(
                module: nn.Module, _: tuple[Any, ...], output: object, path: str = path
            ) -> None:
                arguments = started[path].pop()
                self._num_calls[path] += 1
                if isinstance(output, Tensor):
                    self.dataflow.add_call(path, module, arguments[:1], output)
                    call = Call(path, module, *arguments, output, version_of(output))
                    self.calls.append(call)
                else:
                    self._other_outputs[path] = type(output).__name__

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        try:
            with self.dataflow:
                logits = run(self.net, self.images)
        finally:
            for handle in handles:
                handle.remove()
        check_logits(self.net, logits, len(self.images))
        return logits


def _check_not_compiled(net: nn.Module) -> None:
    for path, module in net.named_modules():
        if path.rpartition(".")[2] == "_orig_mod" or module._compiled_call_impl is not None:
            raise InputError(
                "the network was compiled by torch.compile, and cannot be read inside; give the "
                "network itself, `compiled._orig_mod`, or leave `net.compile()` out, and compile "
                "what `distil` returns."
            )


def run(net: nn.Module, images: Tensor) -> Any:
    """Return what a network returns of images (n, c, h, w), in evaluation mode.

    Raises:
        InputError: if it raises an error, which has the class of the network.
    """
    try:
        with eval_mode(net):
            return net(images)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the network is the user's
        name = type(net.net if isinstance(net, HeadedNetwork) else net).__name__
        raise InputError(
            f"{name} cannot run on images {tuple(images.shape)} of {images.dtype}: "
            f"{first_line(error)}. Give it as a module that takes such images and nothing else, or "
            "images of another size or type."
        ) from error


def _num_prefix_tokens(net: nn.Module) -> int | None:
    found = (getattr(module, "num_prefix_tokens", None) for module in net.modules())
    return next((count for count in found if isinstance(count, int)), None)
