"""Follow tensors through the functions of a forward pass: their uses, and what affects them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Functions of several tensors whose result is linear in each of them.
SUMS = ("add", "iadd", "radd", "sub", "isub", "rsub", "cat", "concat", "stack", "hstack", "vstack")


class Dataflow(TorchFunctionMode):
    """Count the functions that take each tensor, and find what affects it.

    It observes torch functions while it is entered. Tensors with the same storage, such as views,
    are affected together. What happens inside a compiled or scripted module is not observed;
    `add_call` assumes that its parameters affect its output.
    """

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        super().__init__()
        self._alive: list[Tensor] = []  # so that neither an id nor a storage is given to two
        self._num_uses: Counter[int] = Counter()
        self._known = {_storage(each) for each in (images, *net.buffers())}
        self._affected = {_storage(parameter) for parameter in net.parameters()}
        self._from_images = {_storage(images)}
        self._last_layers: dict[int, frozenset[str]] = {}  # by storage
        # Its output is no result of an observed function, and it takes no hooks.
        self._has_script = any(
            isinstance(m, torch.jit.RecursiveScriptModule) for m in net.modules()
        )

    def num_uses(self, tensor: Tensor) -> int:
        """Return how many functions took this very tensor and returned a tensor."""
        return self._num_uses[id(tensor)]

    def is_affected(self, tensor: Tensor) -> bool:
        """Return whether the tensor depends on a parameter of the network."""
        place = _storage(tensor)
        return place in self._affected or (self._has_script and place not in self._known)

    def last_layers(self, tensor: Tensor) -> frozenset[str]:
        """Return the layers that the tensor was computed from without another layer after them.

        A layer is a function of what depends on the images and of a matrix (two or more dimensions
        larger than 1) that does not, as a linear layer or a convolution is. It has the path of the
        innermost module that returns its result; one that no module returns is not among them, nor
        is what was multiplied by a function of the images, as in a gate or attention.
        """
        return self._last_layers.get(_storage(tensor), frozenset())

    def add_call(
        self, path: str, module: nn.Module, inputs: Iterable[Tensor | None], output: Tensor
    ) -> None:
        """Note the call of a module, which may consist of functions that were not observed."""
        if _storage(output) not in self._known | self._affected:
            has_parameters = any(True for _ in module.parameters())
            self._add([each for each in inputs if each is not None], [output], has_parameters)
        if not self.last_layers(output) and any(map(_is_matrix, module.parameters())):
            self._last_layers[_storage(output)] = frozenset((path,))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call a function and note its arguments and results."""
        result = func(*args, **(kwargs or {}))
        taken = _tensors((args, kwargs))
        made = _tensors(result)
        if made:
            self._num_uses.update({id(each) for each in taken})
        elif func is Tensor.__setitem__:
            made = taken[:1]
        self._add(taken, made, is_sum=getattr(func, "__name__", "").strip("_") in SUMS)
        return result

    def _add(
        self,
        taken: list[Tensor],
        made: list[Tensor],
        is_affected: bool = False,
        is_sum: bool = False,
    ) -> None:
        self._alive += [*taken, *made]
        is_affected = is_affected or any(self.is_affected(each) for each in taken)
        from_images = [each for each in taken if _storage(each) in self._from_images]
        others = (each for each in taken if _storage(each) not in self._from_images)
        is_followed = is_sum or len({_storage(each) for each in from_images}) == 1
        layers: frozenset[str] = frozenset()
        if is_followed and not any(map(_is_matrix, others)):
            layers = layers.union(*map(self.last_layers, from_images))
        places = {_storage(each) for each in made}
        self._affected.update(_storage(each) for each in taken if self.is_affected(each))
        if is_affected:
            self._affected |= places
        self._known.update(places, map(_storage, taken))
        if from_images:
            self._from_images |= places
            self._last_layers |= dict.fromkeys(places, layers)


def _tensors(values: object) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


def _is_matrix(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return sum(size > 1 for size in tensor.shape) > 1


def _storage(tensor: Tensor) -> int:
    """Return a number of the tensor's storage, or of the tensor if it has none (sparse)."""
    with torch._C.DisableTorchFunction():
        try:
            return tensor.untyped_storage().data_ptr() or id(tensor)
        except (NotImplementedError, RuntimeError):
            return id(tensor)
