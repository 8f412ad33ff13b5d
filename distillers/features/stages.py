"""Infer which modules of a network output the maps of its stages, or the tokens of its blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillers.features.extractor import eval_mode
from distillers.features.layout import Layout, guess
from distillers.features.trace import Call, ForwardTrace

MAX_STAGES = 4  # of most networks; a map of half the side of the image is then the stem's


def stages_of(trace: ForwardTrace, head: str) -> tuple[tuple[str, ...], str | None]:
    """Return the paths of the stage maps, and that of the map before them if there is one.

    See `distillers.features.infer.infer_taps` for the rules.
    """
    named = _named_by_timm(trace)
    chosen = _at_most_four(trace, named) if named else []
    if not chosen:
        chosen = _at_most_four(trace, _by_size(trace, head))
    if not _in_raster_order(trace, chosen[-MAX_STAGES:]):
        return (), None
    paths = [outermost(trace, call, holding_none_of=[c.path for c in chosen]) for call in chosen]
    before = paths[-MAX_STAGES - 1] if len(paths) > MAX_STAGES else None
    return tuple(paths[-MAX_STAGES:]), before


def layout_of(trace: ForwardTrace, value: Tensor, channels: int | None = None) -> Layout | None:
    """Return the layout in which a value is a map, None if it is not a map.

    If its shape allows both channels first and channels last, the majority of the other outputs of
    modules of the same type decides.
    """
    prefix = trace.num_prefix_tokens
    first, last = (
        guess(value.shape, trace.size, prefix=prefix, channels=channels, channels_last=preferred)
        for preferred in (False, True)
    )
    if first == last:
        return first
    kinds = {type(call.module) for call in trace.calls if call.output is value}
    votes = 0
    for call in trace.calls:
        if type(call.module) in kinds and call.output.ndim == 4:
            one, other = (
                guess(call.output.shape, trace.size, channels_last=preferred)
                for preferred in (False, True)
            )
            if one is not None and one == other:
                votes += 1 if one.channels_last else -1
    return last if votes > 0 else first


def as_map(trace: ForwardTrace, call: Call) -> Tensor | None:
    """Return the output of a call as a map (n, c, h, w), None if it is not a map."""
    layout = layout_of(trace, call.output)
    return None if layout is None else layout.arrange(call.output)


def outermost(trace: ForwardTrace, call: Call, holding_none_of: Sequence[str]) -> str:
    """Return the shortest path of a module, holding none of these, with the output of a call."""
    same = [
        other
        for other in trace.readable()
        if other.output is call.output
        and not any(path.startswith(f"{other.path}.") for path in holding_none_of)
    ]
    with_weights = [other for other in same if any(True for _ in other.module.parameters())]
    return min(with_weights or same or [call], key=lambda other: other.depth).path


def token_paths(trace: ForwardTrace) -> tuple[str, ...]:
    """Return the modules whose outputs are the tokens (n, t, d) of each block, in order.

    The blocks are the longest sequence of modules of one type in one parent whose outputs are
    tokens with a position in the image. If a normalization of the last output follows, it takes
    the place of the last block. Empty if there is no such sequence, or if modules of this type have
    outputs of several shapes, as in networks with stages.
    """
    calls = [call for call in trace.readable() if _token_layout(trace, call) is not None]
    blocks = _longest_repeated(
        [call for call in calls if _is_block(call.module) and trace.is_computed(call.output)]
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


def _named_by_timm(trace: ForwardTrace) -> list[Call]:
    """Return the calls named by the `feature_info` of timm, none if one of them cannot be read."""
    readable = {call.path: call for call in trace.readable()}
    pooled = _pooled(trace)
    for prefix, module in trace.net.named_modules():
        info = getattr(module, "feature_info", None)
        rows = getattr(info, "info", info)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            continue
        found: list[Call | None] = []
        for row in rows:
            path = f"{prefix}.{row['module']}" if prefix else row["module"]
            call = readable.get(path)
            layout = layout_of(trace, call.output, row["num_chs"]) if call else None
            if call is None or id(call.output) not in pooled:
                found.append(None if layout is None else call)
        if None in found[-MAX_STAGES:]:
            return []
        return [call for call in found if call is not None]
    return []


def _by_size(trace: ForwardTrace, head: str) -> list[Call]:
    """Return the last block of each size, or a sequence of blocks if there is only one size."""
    maps = _maps(trace, head)
    blocks = [each for each in maps if _is_block(each.call.module)]
    stages = [
        each
        for each in blocks
        if not any(
            inner.call.path.startswith(f"{each.call.path}.") and inner.area > each.area
            for inner in blocks
        )
    ]
    chosen: list[Call] = []
    for area in sorted({each.area for each in maps}, reverse=True):
        of_size = [each.call for each in stages if each.area == area]
        if of_size:
            depth = min(call.depth for call in of_size)
            chosen.append([call for call in of_size if call.depth == depth][-1])
            continue
        first_smaller = min((each.order for each in maps if each.area < area), default=None)
        early = [
            each
            for each in maps
            if each.area == area and (first_smaller is None or each.order < first_smaller)
        ]
        if early and early[-1].convolutions > 1:
            chosen.append(early[-1].call)
    if len(chosen) > 1:
        return chosen
    return _longest_repeated([each.call for each in blocks]) or chosen


@dataclass(frozen=True)
class _Map:
    """A call whose output is a map, its position, area, and the number of convolutions before."""

    call: Call
    order: int
    area: int
    convolutions: int


def _maps(trace: ForwardTrace, head: str) -> list[_Map]:
    """Return the candidates for stage maps: before the head, and maps of 1 x 1 only of blocks."""
    found: list[_Map] = []
    convolutions = 0
    readable = set(trace.readable())
    pooled = _pooled(trace)
    for order, call in enumerate(trace.calls):
        convolutions += isinstance(call.module, nn.Conv2d)
        if call not in readable or f"{head}.".startswith(f"{call.path}."):
            continue
        if id(call.output) in pooled:
            continue
        values = as_map(trace, call)
        if values is None:
            continue
        area = values.shape[2] * values.shape[3]
        if area > 1 or (_is_block(call.module) and _has_map_input(call.input, found)):
            found.append(_Map(call, order, area, convolutions))
    return found


def _has_map_input(value: Tensor | None, found: list[_Map]) -> bool:
    """Return whether the input of a module with an output of 1 x 1 is a map that was not pooled."""
    if value is None or value.ndim != 4:
        return False
    return value.shape[2] * value.shape[3] > 1 or any(each.call.output is value for each in found)


def _pooled(trace: ForwardTrace) -> set[int]:
    """Return the ids of maps that a module without weights made smaller; a stage ends before it."""
    return {
        id(call.output)
        for call in trace.calls
        if call.input is not None
        and not any(True for _ in call.module.parameters())
        and call.input.ndim == call.output.ndim
        and call.input.numel() > call.output.numel()
    }


def _is_block(module: nn.Module) -> bool:
    """Return whether a module contains two or more layers."""
    return sum(weight.ndim > 1 for weight in module.parameters()) > 1


def _longest_repeated(blocks: list[Call]) -> list[Call]:
    """Return the longest sequence, of two or more, of blocks of one type in one parent module."""
    rows: dict[tuple[str, type[nn.Module]], list[Call]] = {}
    for call in blocks:
        rows.setdefault((call.path.rpartition(".")[0], type(call.module)), []).append(call)
    longest = max(rows.values(), key=len, default=[])
    return longest if len(longest) > 1 else []


def _at_most_four(trace: ForwardTrace, calls: list[Call]) -> list[Call]:
    """Return four calls at equal distances if all are of one size, else all."""
    sizes = {values.shape[2:] for call in calls if (values := as_map(trace, call)) is not None}
    if len(sizes) > 1 or len(calls) <= MAX_STAGES:
        return calls
    return [calls[len(calls) * (i + 1) // MAX_STAGES - 1] for i in range(MAX_STAGES)]


@torch.no_grad()
def _in_raster_order(trace: ForwardTrace, calls: list[Call]) -> bool:
    """Return whether tokens are in row-major order, which is False for Hiera of timm."""
    _, net = trace.inner
    show: Any = getattr(net, "forward_intermediates", None)
    tokens = [call for call in calls if call.output.ndim == 3]
    if not tokens or show is None:
        return True
    with eval_mode(net):
        shown = show(trace.inner_images, output_fmt="NCHW", intermediates_only=True)
    return all(
        any(
            values.shape == each.shape and torch.allclose(values, each, rtol=1e-3, atol=1e-5)
            for each in shown
        )
        for call in tokens
        if (values := as_map(trace, call)) is not None
    )


def _token_layout(trace: ForwardTrace, call: Call) -> Layout | None:
    """Return the layout of an output that is tokens of the image, else None."""
    layout = layout_of(trace, call.output) if call.output.ndim == 3 else None
    return layout if layout and layout.grid else None


def _normalizes(trace: ForwardTrace, call: Call, last: Call) -> bool:
    """Return whether a call normalizes the output of the last block, perhaps with more tokens."""
    layout, own = _token_layout(trace, call), _token_layout(trace, last)
    is_same = layout and own and layout.grid == own.grid
    is_norm = "Norm" in type(call.module).__name__ and not _is_block(call.module)
    is_outside = call.depth < last.depth  # of the blocks, also of other ones that follow
    same_width = call.output.shape[2] == last.output.shape[2]
    return bool(is_same and is_norm and is_outside and same_width)
