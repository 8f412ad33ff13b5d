"""Types and ranges of the entries of a card, checked where a file is read."""

from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

from distillers.config.schema import Bounds, describe_value, find_problem
from distillers.errors import InputError

MAX_VALUES = 2 * 10**6
Pixels = Annotated[int, Bounds(1, 4096)]
Count = Annotated[int, Bounds(0, 10**15)]
Percent = Annotated[float, Bounds(0, 100)]
Mean = Annotated[float, Bounds(-1000, 1000)]
Std = Annotated[float, Bounds(1e-6, 1000)]


class Card(TypedDict, total=False):
    """The description of a network in its file; every entry may be missing or None.

    Attributes:
        format: version of the layout of the file.
        model: architecture, as in `distillers.models.create`.
        num_classes: number of logits; 0 of a network without classifier.
        class_names: names of the classes.
        image_size: side of the images in pixels.
        shorter_side: pixels to which the shorter side is resized before the crop.
        mean: mean of the normalization, for one channel or each.
        std: standard deviation of the normalization.
        channels_last: whether it was evaluated in this memory format.
        dataset: name of the data set that it was trained on.
        data: digest of the labels of that data set.
        accuracy: on the test images.
        parameters: number of parameters.
        macs: multiply-accumulates for one image.
        distillers: version that wrote the file.
        deploy: structure of a network that a loss deployed, with the "name" of the loss.
        distilled: teacher and losses of a student.
        transferred: origin of a network that was transferred.
        int8: how an ONNX file was quantized: layers kept in float, number of calibration images,
            agreement with the float file and its accuracy in percent.
        class_weight: weights of the classes in its loss.
    """

    format: Annotated[int, Bounds(1, 10**6)]
    model: str
    num_classes: Annotated[int, Bounds(0, 10**6)]
    class_names: Annotated[list[str], Bounds(1, 10**6)]
    image_size: Pixels
    shorter_side: Pixels
    mean: Annotated[list[Mean], Bounds(1, 16)]
    std: Annotated[list[Std], Bounds(1, 16)]
    channels_last: bool
    dataset: str
    data: str
    accuracy: Percent
    parameters: Count
    macs: Count
    distillers: str
    deploy: dict[str, Any]
    distilled: dict[str, Any]
    transferred: dict[str, Any]
    int8: dict[str, Any]
    class_weight: Annotated[list[Annotated[float, Bounds(0, 1e12)]], Bounds(1, 10**6)]


def check_card(card: object, path: str | Path) -> dict[str, Any]:
    """Return a card from a file, without empty entries, after checking it.

    Raises:
        InputError: if it is not a mapping, or an entry has the wrong type or is out of range.
    """
    if not isinstance(card, dict):
        raise InputError(f"the card in {path} is a {type(card).__name__}, not a mapping.")
    if not _is_small(card):
        raise InputError(f"the card in {path} is not valid: it has over {MAX_VALUES} values.")
    hints = get_type_hints(Card, include_extras=True)
    for name, value in card.items():
        problem = find_problem(value, hints.get(name, Any)) if value is not None else ""
        if problem or not isinstance(name, str):
            raise InputError(
                f"the card in {path} is not valid: {describe_value(name)} is {problem}."
            )
    names, classes = card.get("class_names"), card.get("num_classes")
    if names and classes and len(names) != classes:
        raise InputError(
            f"the card in {path} is not valid: it has {len(names)} class_names for num_classes "
            f"{classes}."
        )
    return {name: value for name, value in card.items() if value is not None}


def _is_small(card: object) -> bool:
    """Return whether a card has few values, those in several places counted in each."""
    left, count = [card], 0
    while left and count <= MAX_VALUES:
        value = left.pop()
        count += 1
        if isinstance(value, dict | list | tuple):
            count += len(value)
            left += value.values() if isinstance(value, dict) else value
    return count <= MAX_VALUES
