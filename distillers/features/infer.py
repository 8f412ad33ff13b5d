"""Infer where a network is read from one traced forward pass."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distillers.errors import InputError
from distillers.features.backbone import headed, num_classes
from distillers.features.class_map import ClassMap
from distillers.features.extractor import embedding
from distillers.features.layout import PLAIN, Layout
from distillers.features.stages import as_map, layout_of, outermost, stages_of, token_paths
from distillers.features.taps import Place, Taps, module_at, with_maps
from distillers.features.trace import Call, ForwardTrace


def find_taps(
    net: nn.Module, images: Tensor, taps: Taps | None = None, *, maps: Sequence[str] = ()
) -> Taps:
    """Run a network once and return its taps; see `infer_taps`.

    Raises:
        InputError: as `infer_taps` does, and if the network does not return logits.
    """
    return infer_taps(ForwardTrace(net, images), taps, maps=maps)


@torch.no_grad()
def infer_taps(trace: ForwardTrace, taps: Taps | None = None, *, maps: Sequence[str] = ()) -> Taps:
    """Return the taps of a traced network, with the layout of each place.

    They are those given, else those that the network, or the one inside its wrappers, declares in
    an attribute `taps`, else they are inferred by these rules:

    * The head is the last linear layer or convolution whose output, averaged over its positions, is
      the logits and whose input depends on parameters of the network. If there is none, it is the
      `nn.Identity` that returns the logits; else one of the layers on (n, d) that no other layer
      follows: the one that timm names, else one with as many outputs as classes, that of the widest
      embedding. A convolution is such a layer only of a network that declares its `num_classes`:
      the last convolution of others may belong to a network without classifier.
    * The stage maps are those that timm's `feature_info` names, if they can be read. For other
      networks a stage ends with the last block of its size. At most the four deepest are used. If
      all are of one size, as in a vision transformer, four are taken at equal distances.
    * The final map is the last one whose mean over its positions is the input of the head, else
      this embedding itself as a map of 1 x 1.
    * The pre-activation of a stage is the input of the activation whose output is the stage map. A
      map with negative values that is not the output of an activation module is its own
      pre-activation. If one stage has none, there are none.
    * The tokens are those of `distillers.features.stages.token_paths`.

    Outputs that are later overwritten in place are skipped. Tokens and channels-last maps are maps
    if their number or size fits the image. What cannot be inferred is left empty.

    Args:
        trace: of the network.
        taps: taps to complete instead of inferring them.
        maps: paths of the stage maps, instead of those given, declared or inferred.

    Raises:
        InputError: if a tap that was given or declared does not exist or is not a map, or the input
            of its head does not depend on the network's parameters or is not that of each image.
    """
    taps = taps or _declared(trace) or _by_rule(trace)
    _check_head(trace, taps)
    taps = with_maps(taps, maps) if maps else taps
    if not taps.preacts:
        taps = replace(taps, preacts=_preacts(trace, taps.maps))
    if not taps.tokens:
        taps = replace(taps, tokens=token_paths(trace))
    known = dict(taps.layouts)
    found = {place: known.get(place) or _layout(trace, place) for place in _map_places(taps)}
    layouts = tuple((place, layout) for place, layout in found.items() if layout != PLAIN)
    return replace(taps, layouts=layouts)


def _declared(trace: ForwardTrace) -> Taps | None:
    """Return the taps that the network or the one inside its wrappers declares, if any."""
    prefix, net = trace.inner
    is_readable = trace.ran_once(prefix) and len(trace.inner_images) == len(trace.images)
    for path, module in (("", trace.net), (prefix, net)):
        taps = getattr(module, "taps", None)
        if isinstance(taps, Taps) and (not path or is_readable):
            return taps.under(path) if path else taps
    return None


def _check_head(trace: ForwardTrace, taps: Taps) -> None:
    """Check that the input of the head is computed by the network, for each image."""
    inputs = trace.input_of(taps.head)
    if inputs is None:
        return
    name, count = type(trace.net).__name__, len(trace.images)
    if not trace.is_computed(inputs):
        raise InputError(
            f"{taps.head} is no classifier of {name}: its input depends on no parameter of "
            f"{name}. Name the layer that takes the embedding, as in "
            f"Taps(maps={taps.maps}, head=...)."
        )
    if len(inputs) != count:
        raise InputError(
            f"{taps.head} gets {len(inputs)} rows for {count} images, so that {name} has no "
            "embedding of each; use losses that read logits, as kd, or a network without crops."
        )


def _by_rule(trace: ForwardTrace) -> Taps:
    head = _head(trace)
    maps, before = stages_of(trace, head)
    first = next((call.path for call in _inside(trace) if as_map(trace, call) is not None), "")
    return Taps(
        maps=maps,
        head=head,
        stem=before or (first if first and first not in maps else None),
        final=_final(trace, head, maps),
    )


def _inside(trace: ForwardTrace) -> list[Call]:
    """Return the readable calls of the network inside its wrappers that depend on parameters."""
    path, _ = trace.inner
    prefix = f"{path}." if path else ""
    return [
        call
        for call in trace.readable()
        if call.path.startswith(prefix) and trace.is_computed(call.output)
    ]


def _head(trace: ForwardTrace) -> str:
    """Return the path of the classifier, "" if there is none."""
    beside = headed(trace.net)
    if beside:
        return f"{beside[0]}.head".removeprefix(".")
    logits = _class_scores(trace)
    layers = [call for call in trace.calls if _may_be_head(trace, call)]
    for call in reversed(layers):
        if _outputs_logits(call, logits):
            return call.path
    for call in reversed(trace.calls):
        if isinstance(call.module, nn.Identity) and call.output is logits:
            return call.path
    before = trace.dataflow.last_layers(logits)
    declares = num_classes(trace.net) is not None
    found = [
        call
        for call in layers
        if call.path in before
        and call.input is not None
        and (call.input.ndim == 2 or (declares and isinstance(call.module, nn.Conv2d)))
    ]
    named = _timm_classifier(trace)
    found = (
        [call for call in found if call.path in named]
        or [call for call in found if _width(call, call.output) == logits.shape[1]]
        or found
    )
    return max(found, key=lambda call: _width(call, call.input)).path if found else ""


def _class_scores(trace: ForwardTrace) -> Tensor:
    """Return the logits before a `ClassMap`, if one maps them to other classes."""
    mapped = [call for call in trace.calls if isinstance(call.module, ClassMap)]
    return trace.logits if not mapped or mapped[-1].input is None else mapped[-1].input


def _may_be_head(trace: ForwardTrace, call: Call) -> bool:
    """Return whether a call is that of a layer, run once, on what was computed of each image."""
    if not trace.ran_once(call.path) or not trace.is_computed(call.input):
        return False
    if call.input is None or len(call.input) != len(trace.images):
        return False
    is_own = call.input.ndim == 2 and call.path in trace.dataflow.last_layers(call.output)
    return isinstance(call.module, nn.Linear | nn.Conv2d) or is_own


def _outputs_logits(call: Call, logits: Tensor) -> bool:
    """Return whether the output of a layer, averaged over its positions, is the logits."""
    found = call.output.to(logits.dtype)
    if found.numel() == logits.numel():
        return torch.equal(found.flatten(1), logits)
    found = embedding(call.module, found)
    return found.shape == logits.shape and torch.allclose(found, logits, rtol=1e-4)


def _width(call: Call, value: Tensor | None) -> int:
    """Return the width of the embedding or logits that a layer takes or returns."""
    assert value is not None
    return value.shape[1 if isinstance(call.module, nn.Conv2d) else -1]


def _timm_classifier(trace: ForwardTrace) -> tuple[str, ...]:
    """Return the paths of the classifiers in the `pretrained_cfg` of a network of timm."""
    prefix, net = trace.inner
    config: Any = getattr(net, "pretrained_cfg", None) or {}
    named = config.get("classifier") or ()
    named = (named,) if isinstance(named, str) else tuple(named)
    return tuple(f"{prefix}.{path}" if prefix else path for path in named)


def _final(trace: ForwardTrace, head: str, maps: tuple[str, ...]) -> str | None:
    inputs = trace.input_of(head)
    if inputs is None:
        return None
    if _is_transformed(trace, inputs):
        return head
    pooled = embedding(module_at(trace.net, head), inputs)
    tolerance = 1e-4 * float(pooled.abs().max())
    for call in reversed(trace.readable()):
        values = as_map(trace, call)
        if values is None or values.shape[1] != pooled.shape[1]:
            continue
        if values[0, 0].numel() == 1 and call.path not in maps:
            continue  # pooled already
        if torch.allclose(values.mean((2, 3)).to(pooled.dtype), pooled, rtol=1e-3, atol=tolerance):
            return outermost(trace, call, holding_none_of=maps)
    return head


def _is_transformed(trace: ForwardTrace, vector: Tensor) -> bool:
    """Return whether the embedding is the output of a layer with weights.

    Values alone do not show it: a new network's normalization may be close to the identity.
    """
    while vector.ndim == 2:
        makers = [call for call in trace.calls if call.output is vector]
        if any(True for call in makers for _ in call.module.parameters(recurse=False)):
            return True
        inputs = [
            call.input for call in makers if call.input is not None and call.input is not vector
        ]
        if not inputs:
            return False
        vector = inputs[0]
    return False


def _preacts(trace: ForwardTrace, maps: tuple[str, ...]) -> tuple[str, ...]:
    """Return the path of the last activation of each stage, or nothing if one is not a module."""
    found = []
    last_runs = {call.path: call for call in trace.calls}
    for path in maps:
        stage = last_runs.get(path)
        if stage is None:
            return ()
        activations = (call for call in last_runs.values() if call.output is stage.output)
        preact = next((call.path for call in activations if _is_activation(call)), "")
        if not preact and float(stage.output.min()) >= 0:
            return ()  # the activation is a function, whose input is not traced
        found.append(preact)
    return tuple(found)


def _is_activation(call: Call) -> bool:
    """Return whether the module is an activation that changed its input, perhaps in place."""
    if call.input is None or call.input.shape != call.output.shape:
        return False
    if call.input is call.output and call.input_version == call.output_version:
        return False
    has_weights = any(weight.ndim > 1 for weight in call.module.parameters())
    return "activation" in type(call.module).__module__ and not has_weights


def _map_places(taps: Taps) -> list[Place]:
    final = [] if taps.final == taps.head else taps.places("final")
    lists = (*taps.places("maps"), *taps.places("preacts"), *taps.places("tokens"))
    return [*lists, *final, *taps.places("stem")]


def _layout(trace: ForwardTrace, place: Place) -> Layout:
    """Return the layout of a place that is read as a map.

    Raises:
        InputError: if there is no such module, or its value is not a map.
    """
    path, side = place
    module_at(trace.net, path)
    calls = [call for call in trace.calls if call.path == path]
    value = (calls[-1].output if side == "out" else calls[-1].input) if calls else None
    if value is None:
        return PLAIN  # reading it raises the error
    layout = layout_of(trace, value)
    if layout is None and value.ndim != 4:
        height, width = trace.size
        raise InputError(
            f"the {side}put of {path} is {tuple(value.shape)}, which is no map of images of "
            f"{height} x {width}; tap another module."
        )
    return layout or PLAIN
