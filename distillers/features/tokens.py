"""Find the modules whose outputs are the tokens of each transformer block."""

from distillers.features.layout import Layout
from distillers.features.stages import is_block, layout_of, longest_repeated
from distillers.features.trace import Call, ForwardTrace


def token_paths(trace: ForwardTrace) -> tuple[str, ...]:
    """Return the modules whose outputs are the tokens (n, t, d) of each block, in order.

    The blocks are the longest sequence of modules of one type in one parent whose outputs are
    tokens with a position in the image. If a normalization of the last output follows, it takes
    the place of the last block. Empty if there is no such sequence, or if modules of this type have
    outputs of several shapes, as in networks with stages.
    """
    calls = [call for call in trace.readable() if _layout(trace, call) is not None]
    blocks = longest_repeated(
        [call for call in calls if is_block(call.module) and trace.is_computed(call.output)]
    )
    if not blocks:
        return ()
    last = blocks[-1]
    same_type = (call for call in trace.calls if type(call.module) is type(last.module))
    if len({call.output.shape for call in same_type}) > 1:
        return ()
    after = calls[calls.index(last) + 1 :]
    end = next((call for call in after if _normalizes(trace, call, last)), last)
    return (*(call.path for call in blocks[:-1]), end.path)


def _layout(trace: ForwardTrace, call: Call) -> Layout | None:
    """Return the layout of an output that is tokens of the image, else None."""
    layout = layout_of(trace, call.output) if call.output.ndim == 3 else None
    return layout if layout and layout.grid else None


def _normalizes(trace: ForwardTrace, call: Call, last: Call) -> bool:
    """Return whether a call normalizes the output of the last block, perhaps with more tokens."""
    layout, own = _layout(trace, call), _layout(trace, last)
    is_same = layout and own and layout.grid == own.grid
    is_norm = "Norm" in type(call.module).__name__ and not is_block(call.module)
    is_outside = call.depth < last.depth  # of the blocks, also of other ones that follow
    same_width = call.output.shape[2] == last.output.shape[2]
    return bool(is_same and is_norm and is_outside and same_width)
