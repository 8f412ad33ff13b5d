"""Files of a run folder: written with checksums, checked where they are read.

The JSON objects have a SHA-256 of their content in the entry "sha256", so that they may be
formatted anew; each line of `metrics.jsonl` ends with the CRC-32 of the text before it. Files of
earlier versions have neither and count as not verified.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints

from distillers.config.schema import Bounds, describe_value, find_problem
from distillers.errors import CorruptFileError

METRICS = "metrics.jsonl"
KEY = "sha256"
ROW_CHECKSUM = ', "crc32": "'  # start of the last entry of a row, followed by 8 digits and '"}'
MAX_BYTES = 2**28  # of a file

Count = Annotated[int, Bounds(0, 10**15)]
Percent = Annotated[float, Bounds(0, 100)]
Amount = Annotated[float, Bounds(0, 1e15)]
LARGEST = 1e18  # keeps sums of squares finite

# Figures in a row of the metrics by --select.
SELECTED = {None: "acc", "test_acc": "acc", "balanced_acc": "balanced_acc", "loss": "loss"}


class NotAnObjectError(CorruptFileError):
    """A file is intact JSON of another kind, as of another program."""


class RunConfig(TypedDict):
    """The flags in `config.json` that name a run; its other flags are plain values."""

    dataset: str
    protocol: NotRequired[str]
    epochs: Annotated[int, Bounds(0, 10**6)]
    trial: Annotated[int, Bounds(-(10**18), 10**18)]
    model: NotRequired[str | None]
    model_s: NotRequired[str | None]
    distill: NotRequired[str | None]
    loss: NotRequired[str | None]
    memory_type: NotRequired[str | None]


class RunSummary(TypedDict):
    """Content of `summary.json`; the entries on a teacher are those of students."""

    data: NotRequired[str]
    parameters: Count
    macs: Count
    latency_ms: Amount
    busy_cores: NotRequired[Annotated[float, Bounds(0, 10**6)] | None]
    device: str
    devices: Annotated[int, Bounds(1, 10**6)]
    cpu_threads: NotRequired[Annotated[int, Bounds(1, 10**6)]]
    hours: Amount
    peak_memory_mib: NotRequired[Annotated[float, Bounds(0, 1e12)] | None]
    teacher: NotRequired[str]
    teacher_sha256: NotRequired[str]
    teacher_accuracy: NotRequired[Percent | None]
    settings: NotRequired[dict[str, Any]]
    departures: NotRequired[dict[str, Any]]


class MetricsRow(TypedDict):
    """Entries of a row of `metrics.jsonl` that are read; the others are numbers."""

    epoch: Annotated[int, Bounds(-(10**6), 10**6)]
    test_acc: NotRequired[Percent]
    lr: NotRequired[Annotated[float, Bounds(-LARGEST, LARGEST)]]
    images_per_second: NotRequired[Amount]
    val_acc: NotRequired[Percent]
    val_balanced_acc: NotRequired[Percent]
    val_loss: NotRequired[Amount]


# Content of `parameters.json` besides the flags.
RunTotals = TypedDict(
    "RunTotals", {"Total time": Amount, "epochs": Annotated[int, Bounds(1, 10**6)]}
)


def reported_part(row: Mapping[str, Any]) -> str:
    """Return the images on which an epoch is reported: "test", or "val" without test images."""
    return "test" if "test_acc" in row else "val"


def dump_json(content: Mapping[str, Any]) -> bytes:
    """Return a JSON file of an object and its checksum."""
    plain = json.loads(json.dumps(content, default=str))
    return (json.dumps({**plain, KEY: json_digest(plain)}, indent=2) + "\n").encode()


def load_json(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a JSON object that `dump_json` wrote.

    Returns:
        the object without its checksum; and whether it had one.

    Raises:
        FileNotFoundError: if there is no such file.
        CorruptFileError: if it cannot be read, is not an object, or its checksum does not fit.
    """
    content = _parse(f"{path.name}", _read(path))
    if not isinstance(content, dict):
        raise NotAnObjectError(f"{path.name} is not a JSON object.")
    given = content.pop(KEY, None)
    if given is not None and given != json_digest(content):
        raise CorruptFileError(f"{path.name} is damaged: its checksum does not fit its content.")
    return content, given is not None


def check_fields(content: Mapping[str, Any], schema: type, where: str) -> None:
    """Check the entries of a JSON object that a `TypedDict` names; `where` names it in messages.

    Raises:
        CorruptFileError: if one is missing, has the wrong type or is out of range.
    """
    for name, hint in field_hints(schema).items():
        if name in content:
            if problem := find_problem(content[name], hint):
                raise CorruptFileError(f"{where}: {name} is {problem}.")
        elif name in schema.__required_keys__:
            raise CorruptFileError(f"{where} has no {name}.")


@cache
def field_hints(schema: type) -> dict[str, Any]:
    """Return the types of the entries of a `TypedDict`, with their bounds."""
    hints = get_type_hints(schema, include_extras=True)
    return {n: get_args(h)[0] if get_origin(h) is NotRequired else h for n, h in hints.items()}


def dump_metrics(rows: list[dict[str, float]]) -> bytes:
    """Return the content of `metrics.jsonl` with a checksum in every row."""
    lines = []
    for row in rows:
        text = json.dumps(row)[:-1]
        lines.append(f'{text}{ROW_CHECKSUM}{zlib.crc32(text.encode()):08x}"}}\n')
    return "".join(lines).encode()


def load_metrics(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Read a `metrics.jsonl`.

    Returns:
        its rows without their checksums; and whether all had one.

    Raises:
        FileNotFoundError: if there is no such file.
        CorruptFileError: naming the line that is no JSON object or whose checksum does not fit.
    """
    lines = [line for line in _read(path).split("\n") if line]
    is_verified = bool(lines) and all(ROW_CHECKSUM in line for line in lines)
    if not is_verified and any("crc32" in line for line in lines):
        raise CorruptFileError(f"{path.name} is damaged: only some of its lines have a checksum.")
    if is_verified:
        numbered = enumerate(lines, start=1)
        lines = [_strip_checksum(f"{path.name}, line {n},", line) for n, line in numbered]
    try:
        rows = json.loads(f"[{','.join(lines)}]")  # much faster than line by line
    except (ValueError, RecursionError):
        rows = [_parse(f"{path.name}, line {n},", line) for n, line in enumerate(lines, 1)]
    if len(rows) != len(lines) or not all(type(row) is dict for row in rows):
        raise CorruptFileError(f"a line of {path.name} is not a JSON object.")
    return rows, is_verified


def check_epochs(rows: Sequence[Mapping[str, Any]]) -> None:
    """Check that the epochs of rows are whole numbers in order, from 1 or before."""
    hint = field_hints(MetricsRow)["epoch"]
    epochs: list[Any] = [row.get("epoch") for row in rows]
    problem = next(filter(None, (find_problem(epoch, hint) for epoch in epochs)), "")
    if problem:
        raise CorruptFileError(f"{METRICS}: epoch is {problem}.")
    if epochs and (epochs[0] > 1 or epochs != list(range(epochs[0], epochs[0] + len(epochs)))):
        raise CorruptFileError(f"the epochs in {METRICS} are not consecutive.")


def _strip_checksum(where: str, line: str) -> str:
    text, _, end = line.rpartition(ROW_CHECKSUM)
    if end != f'{zlib.crc32(text.encode()):08x}"}}':
        raise CorruptFileError(f"{where} is damaged: its checksum does not fit its content.")
    return text + "}"


def json_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CorruptFileError(f"{path.name} is larger than {MAX_BYTES:,} bytes.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path.name} cannot be read: {error}") from error


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(
            f"{where} is not valid JSON: {describe_value(str(error))}"
        ) from error
