"""Which modules of an unknown network give the maps of its stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillers.features.layout import Layout, guess
from distillers.features.taps import eval_mode
from distillers.features.trace import Call, ForwardTrace

MOST_STAGES = 4  # as most networks have; a map of half the image's side counts as the stem's


def stages_of(trace: ForwardTrace, head: str) -> tuple[tuple[str, ...], str | None]:
    """The paths of the stage maps, and of the map before the first of them where there is one.

    See `distillers.features.infer.find_taps` for the rule.
    """
    named = _named_by_timm(trace)
    chosen = _at_most_four(trace, named) if named else []
    if not chosen:
        chosen = _at_most_four(trace, _by_size(trace, head))
    if not _in_raster_order(trace, chosen[-MOST_STAGES:]):
        return (), None
    paths = [outermost(trace, call, holding_none_of=[c.path for c in chosen]) for call in chosen]
    before = paths[-MOST_STAGES - 1] if len(paths) > MOST_STAGES else None
    return tuple(paths[-MOST_STAGES:]), before


def layout_of(trace: ForwardTrace, value: Tensor, channels: int | None = None) -> Layout | None:
    """The layout in which a value is a map; None where it is none.

    Where its shape leaves in doubt whether channels come first or last, modules of the same kind as
    those that gave it decide by what they gave elsewhere.
    """
    prefix = trace.prefix
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
    """A call's output as a map (n, c, h, w); None where it is none."""
    layout = layout_of(trace, call.output)
    return None if layout is None else layout.arrange(call.output)


def outermost(trace: ForwardTrace, call: Call, holding_none_of: Sequence[str]) -> str:
    """The shortest path that gives the very output of a call.

    Args:
        trace: the forward.
        call: of some module.
        holding_none_of: paths that must not lie inside the one wanted.
    """
    same = [
        other
        for other in trace.readable()
        if other.output is call.output
        and not any(path.startswith(f"{other.path}.") for path in holding_none_of)
    ]
    weighty = [other for other in same if any(True for _ in other.module.parameters())]
    return min(weighty or same or [call], key=lambda other: other.depth).path


def _named_by_timm(trace: ForwardTrace) -> list[Call]:
    """The calls that timm's `feature_info` names; none where one of them cannot be read."""
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
            if call is None or not any(call.output is each for each in pooled):
                found.append(None if layout is None else call)
        shown = [call for call in found[-MOST_STAGES:] if call is not None]
        if len(shown) < min(MOST_STAGES, len(found)):
            return []
        return [call for call in found if call is not None]
    return []


def _by_size(trace: ForwardTrace, head: str) -> list[Call]:
    """The last block of each size, or of all sizes where there is one only."""
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
    return _repeated([each.call for each in blocks]) or chosen


@dataclass(frozen=True)
class _Map:
    """A call that gives a map, its place in the order, its area, the convolutions up to there."""

    call: Call
    order: int
    area: int
    convolutions: int


def _maps(trace: ForwardTrace, head: str) -> list[_Map]:
    """What may be a stage's map: those before the head, and single places only of whole blocks."""
    found: list[_Map] = []
    convolutions = 0
    readable = set(trace.readable())
    pooled = _pooled(trace)
    for order, call in enumerate(trace.calls):
        convolutions += isinstance(call.module, nn.Conv2d)
        if call not in readable or f"{head}.".startswith(f"{call.path}."):
            continue
        if any(call.output is each for each in pooled):
            continue
        values = as_map(trace, call)
        if values is None:
            continue
        area = values.shape[2] * values.shape[3]
        if area > 1 or (_is_block(call.module) and _has_places(call.input, found)):
            found.append(_Map(call, order, area, convolutions))
    return found


def _has_places(taken: Tensor | None, found: list[_Map]) -> bool:
    """Whether the input of a module that gives a single place is a map, and no pooled one."""
    if taken is None or taken.ndim != 4:
        return False
    return taken.shape[2] * taken.shape[3] > 1 or any(each.call.output is taken for each in found)


def _pooled(trace: ForwardTrace) -> list[Tensor]:
    """Maps that a module without weights made smaller; a stage ends before it."""
    return [
        call.output
        for call in trace.calls
        if call.input is not None
        and not any(True for _ in call.module.parameters())
        and call.input.ndim == call.output.ndim
        and call.input.numel() > call.output.numel()
    ]


def _is_block(module: nn.Module) -> bool:
    """Whether there are two layers or more in a module."""
    return sum(weight.ndim > 1 for weight in module.parameters()) > 1


def _repeated(blocks: list[Call]) -> list[Call]:
    """The blocks of the longest row of the same kind in one place."""
    rows: dict[tuple[str, type[nn.Module]], list[Call]] = {}
    for call in blocks:
        rows.setdefault((call.path.rpartition(".")[0], type(call.module)), []).append(call)
    longest = max(rows.values(), key=len, default=[])
    return longest if len(longest) > 1 else []


def _at_most_four(trace: ForwardTrace, calls: list[Call]) -> list[Call]:
    """Calls of one size thinned out to four at equal distances; others as they are."""
    sizes = {values.shape[2:] for call in calls if (values := as_map(trace, call)) is not None}
    if len(sizes) > 1 or len(calls) <= MOST_STAGES:
        return calls
    return [calls[len(calls) * (i + 1) // MOST_STAGES - 1] for i in range(MOST_STAGES)]


@torch.no_grad()
def _in_raster_order(trace: ForwardTrace, calls: list[Call]) -> bool:
    """Whether tokens lie row by row, where timm can tell: Hiera, for one, orders them otherwise."""
    show: Any = getattr(trace.net, "forward_intermediates", None)
    tokens = [call for call in calls if call.output.ndim == 3]
    if not tokens or show is None:
        return True
    with eval_mode(trace.net):
        shown = show(trace.images, output_fmt="NCHW", intermediates_only=True)
    return all(
        any(
            values.shape == each.shape and torch.allclose(values, each, rtol=1e-3, atol=1e-5)
            for each in shown
        )
        for call in tokens
        if (values := as_map(trace, call)) is not None
    )
