"""Where a network that declares nothing is read, by rules on one trace forward."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from distillers.errors import InputError
from distillers.features.layout import PLAIN, Layout
from distillers.features.stages import as_map, layout_of, outermost, stages_of
from distillers.features.taps import Place, Taps, embedding, module_at, with_maps
from distillers.features.trace import Call, ForwardTrace


def find_taps(
    net: nn.Module, images: Tensor, given: Taps | None = None, *, maps: Sequence[str] = ()
) -> Taps:
    """The taps of a network, with the layout of each place recorded.

    They are those given, else those that the network declares as `taps`, else found by rule on one
    forward of two images:

    * The head is the last linear layer or convolution whose output is the logits. Where there is
      none it is the classifier that timm names, else the last layer as wide as there are classes.
    * The stage maps are those that timm's `feature_info` names, as far as they can be read. For
      other networks a stage ends with the last block of its size. At most the four deepest count;
      where all are of one size, as in a vision transformer, four are taken at equal distances.
    * The final map is the last whose mean over its places is what the head takes in, else this
      embedding itself, as a map of 1 x 1.
    * The pre-activation of a stage is what the activation takes in that gives its map. A map below
      zero that no activation module gives is its own. One such stage missing, there are none.

    Outputs that are overwritten in place later are passed over. Tokens and channels-last maps count
    as maps where their number or size fits the image. What cannot be found is left out.

    Args:
        net: maps images (n, c, h, w) to logits (n, k).
        images: (n, c, h, w), any content, of the size that the network will see.
        given: taps to complete rather than to find.
        maps: paths of the stage maps, in the place of those given, declared or found.

    Raises:
        InputError: when the network returns anything but logits, or a tap that was given or
            declared does not exist or gives no map.
    """
    declared = getattr(net, "taps", None)
    taps = given or (declared if isinstance(declared, Taps) else None)
    trace = ForwardTrace(net, images)
    taps = _by_rule(trace) if taps is None else taps
    taps = with_maps(taps, maps) if maps else taps
    if not taps.preacts:
        taps = replace(taps, preacts=_preacts(trace, taps.maps))
    known = dict(taps.layouts)
    found = {place: known.get(place) or _layout(trace, place) for place in _map_places(taps)}
    layouts = tuple((place, layout) for place, layout in found.items() if layout != PLAIN)
    return replace(taps, layouts=layouts)


def _by_rule(trace: ForwardTrace) -> Taps:
    head = _head(trace)
    maps, before = stages_of(trace, head)
    first = next((call.path for call in trace.readable() if as_map(trace, call) is not None), "")
    return Taps(
        maps=maps,
        head=head,
        stem=before or (first if first and first not in maps else None),
        final=_final(trace, head, maps),
    )


def _head(trace: ForwardTrace) -> str:
    """The classifier's path; "" where there is none."""
    logits = trace.logits
    single = [call for call in trace.calls if trace.ran_once(call.path)]
    own = [call for call in single if any(True for _ in call.module.parameters(recurse=False))]
    for call in reversed(own):
        if call.output.numel() == logits.numel() and torch.equal(call.output.flatten(1), logits):
            return call.path
    named = _timm_classifier(trace.net)
    wide = [
        call.path
        for call in own
        if isinstance(call.module, nn.Linear | nn.Conv2d)
        and call.output.shape[1] == logits.shape[1]
    ]
    return next((path for path in wide if path in named), wide[-1] if wide else "")


def _timm_classifier(net: nn.Module) -> tuple[str, ...]:
    """The paths of the classifiers, by timm's card of the network."""
    card = getattr(net, "pretrained_cfg", None) or {}
    named = card.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _final(trace: ForwardTrace, head: str, maps: tuple[str, ...]) -> str | None:
    taken = next((call.input for call in trace.calls if call.path == head), None)
    if taken is None:
        return None
    if _is_worked_on(trace, taken):
        return head
    pooled = embedding(module_at(trace.net, head), taken)
    tolerance = 1e-4 * float(pooled.abs().max())
    for call in reversed(trace.readable()):
        values = as_map(trace, call)
        if values is None or values.shape[1] != pooled.shape[1] or values[0, 0].numel() == 1:
            continue
        if torch.allclose(values.mean((2, 3)), pooled, rtol=1e-3, atol=tolerance):
            return outermost(trace, call, holding_none_of=maps)
    return head


def _is_worked_on(trace: ForwardTrace, taken: Tensor) -> bool:
    """Whether a layer with weights made this vector; a norm in a new network may look idle."""
    while taken.ndim == 2:
        makers = [call for call in trace.calls if call.output is taken]
        if any(True for call in makers for _ in call.module.parameters(recurse=False)):
            return True
        before = [
            call.input for call in makers if call.input is not None and call.input is not taken
        ]
        if not before:
            return False
        taken = before[0]
    return False


def _preacts(trace: ForwardTrace, maps: tuple[str, ...]) -> tuple[str, ...]:
    """A module a stage whose input, at its last run, is the map before its last activation."""
    found = []
    last_runs = {call.path: call for call in trace.calls}
    for path in maps:
        stage = last_runs.get(path)
        if stage is None:
            return ()
        activations = (call for call in last_runs.values() if call.output is stage.output)
        own = next((call.path for call in activations if _is_activation(call)), "")
        if not own and float(stage.output.min()) >= 0:
            return ()  # activated by a function, whose input no module shows
        found.append(own)
    return tuple(found)


def _is_activation(call: Call) -> bool:
    """Whether an activation module ran, in place or not, and did not leave its input as it was."""
    if call.input is None or call.input.shape != call.output.shape:
        return False
    if call.input is call.output and call.input_version == call.output_version:
        return False
    weighty = any(weight.ndim > 1 for weight in call.module.parameters())
    return "activation" in type(call.module).__module__ and not weighty


def _map_places(taps: Taps) -> list[Place]:
    final = [] if taps.final == taps.head else taps.places("final")
    return [*taps.places("maps"), *taps.places("preacts"), *final, *taps.places("stem")]


def _layout(trace: ForwardTrace, place: Place) -> Layout:
    """The layout of a place that will be read as a map.

    Raises:
        InputError: when there is no such module, or its output is no map.
    """
    path, side = place
    module_at(trace.net, path)
    calls = [call for call in trace.calls if call.path == path]
    value = (calls[-1].output if side == "out" else calls[-1].input) if calls else None
    if value is None:
        return PLAIN  # reading it says what is wrong
    layout = layout_of(trace, value)
    if layout is None and value.ndim != 4:
        height, width = trace.size
        raise InputError(
            f"the {side}put of {path} is {tuple(value.shape)}, which is no map of images of "
            f"{height} x {width}; tap another module."
        )
    return layout or PLAIN
