"""Records of runs, and the data frame of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

RULES = ("last", "best", "held_out")
ALONE = "alone"


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes:
        folder: path of the run folder.
        dataset: name of the data set.
        protocol: "crd" or "simkd".
        trial: seed.
        teacher: name of the teacher network; None without a teacher.
        teacher_file: SHA-256 of the teacher's checkpoint, or None.
        teacher_accuracy: test accuracy in percent; None if it was not evaluated.
        student: name of the trained network.
        method: loss names such as "crd+kd"; "alone" without a teacher.
        loss_settings: weight by loss, and every option by "loss.option".
        departures: loss settings and tapped modules that are not the published ones.
        train_flags: every other flag that affects the result, by name, as JSON.
        data: digest of the training labels; None if unknown.
        group_key: JSON that is equal for runs that differ only in the trial and the data.
        curve: test accuracy in percent after each epoch.
        scores: test accuracy in percent by rule: of the "last" epoch, of the "best" epoch on the
            test images and, with held-out images, of the best epoch on those ("held_out").
        hours: wall-clock time of the whole run.
        images_per_second: training throughput, the median over epochs.
        peak_memory_mib: see `distillers.models.profile.peak_memory_mib`; None if not measured.
        parameters: parameter count of the deployed network.
        macs: its multiply-accumulate operations for one image.
        latency_ms: its latency for one image on `device`.
        busy_cores: CPU cores that other programs used meanwhile; None if unknown.
        device: name of the training device, for CPUs with the number of threads.
        devices: number of devices.
        versions: of Python, torch and the source.
        is_verified: whether every file has a checksum, as those of earlier versions have not.
    """

    folder: str
    dataset: str
    protocol: str
    trial: int
    teacher: str | None
    teacher_file: str | None
    teacher_accuracy: float | None
    student: str
    method: str
    loss_settings: dict[str, Any]
    departures: dict[str, Any]
    train_flags: dict[str, Any]
    data: str | None
    group_key: str
    curve: tuple[float, ...]
    scores: dict[str, float]
    hours: float
    images_per_second: float
    peak_memory_mib: float | None
    parameters: int
    macs: int
    latency_ms: float
    busy_cores: float | None
    device: str
    devices: int
    versions: str
    is_verified: bool


@dataclass(frozen=True)
class UnreadableRun:
    """A run folder that a report does not count.

    Attributes:
        folder: path of the folder.
        reason: why it is not counted.
        kind: "damaged", "unfinished", "copy" of another run, or "transfer".
    """

    folder: str
    reason: str
    kind: str = "damaged"


def printable(text: object) -> str:
    """Convert to a string in which characters that cannot be printed are escaped."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def to_frame(runs: Sequence[RunRecord]) -> "DataFrame":
    """Convert records to a data frame as `load_runs` returns it, in the same order."""
    from pandas import DataFrame  # slow to import

    columns = [field.name for field in dataclasses.fields(RunRecord)]
    frame = DataFrame([vars(run) for run in runs], columns=columns)
    scores = DataFrame([run.scores for run in runs], columns=list(RULES), dtype=float)
    return frame.join(scores)
