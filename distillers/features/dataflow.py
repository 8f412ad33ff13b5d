"""Follow tensors through the functions of a forward pass: their uses, and what affects them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Dataflow(TorchFunctionMode):
    """Count the functions that take each tensor, and find the tensors that parameters affect.

    It observes torch functions while it is entered. Tensors with the same storage, such as views,
    are affected together. What happens inside a compiled or scripted module is not observed;
    `add_call` assumes that its parameters affect its output.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._alive: list[Tensor] = []  # so that neither an id nor a storage is given to two
        self._num_uses: Counter[int] = Counter()
        self._known = {_storage(buffer) for buffer in net.buffers()}
        self._affected = {_storage(parameter) for parameter in net.parameters()}

    def num_uses(self, tensor: Tensor) -> int:
        """Return how many functions took this very tensor and returned a tensor."""
        return self._num_uses[id(tensor)]

    def is_affected(self, tensor: Tensor) -> bool:
        """Return whether the tensor depends on a parameter of the network."""
        return _storage(tensor) in self._affected

    def add_call(self, module: nn.Module, inputs: Iterable[Tensor | None], output: Tensor) -> None:
        """Note the call of a module whose output no observed function made."""
        if _storage(output) in self._known | self._affected:
            return
        has_parameters = any(True for _ in module.parameters())
        self._add([each for each in inputs if each is not None], [output], has_parameters)

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
        self._add(taken, made)
        return result

    def _add(self, taken: list[Tensor], made: list[Tensor], is_affected: bool = False) -> None:
        self._alive += [*taken, *made]
        is_affected = is_affected or any(self.is_affected(each) for each in taken)
        self._known.update(_storage(each) for each in (*taken, *made))
        if is_affected:
            self._affected.update(_storage(each) for each in made)


def _tensors(values: object) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


def _storage(tensor: Tensor) -> int:
    """Return a number of the tensor's storage, or of the tensor if it has none (sparse)."""
    with torch._C.DisableTorchFunction():
        try:
            return tensor.untyped_storage().data_ptr() or id(tensor)
        except (NotImplementedError, RuntimeError):
            return id(tensor)
