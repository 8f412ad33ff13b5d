"""The flags of commands that run saved networks on test images; nothing here imports torch."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from distillers.config.data import DecodeOptions, OnBad
from distillers.config.flags import FRACTION, NOT_NEGATIVE, at_least, check_ranges
from distillers.config.run_files import NotAnObjectError, load_json
from distillers.errors import CorruptFileError, InputError, escape

RUN_FLAGS: dict[str, type | tuple[type, ...]] = {
    "dataset": str,
    "data_dir": str,
    "save_dir": str,
    "num_workers": int,
    "on_bad_image": str,
    "val_fraction": (int, float),
}


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """The device of a command that runs in one process."""

    gpu_id: str | None = None
    """GPU index, or "cpu". Default: the first GPU if there is one."""

    def devices(self) -> tuple[str, ...]:
        """Return the device of --gpu_id; empty if it is not given."""
        return (self.gpu_id,) if self.gpu_id else ()


@dataclass(frozen=True, kw_only=True)
class EvalDataConfig:
    """Test images of a saved network."""

    DEFAULTS: ClassVar[dict[str, Any]] = {
        "data_dir": "./data",
        "num_workers": 8,
        "on_bad_image": "error",
        "val_fraction": 0.0,
    }

    dataset: str | None = None
    """Data set. Default: that of the network's training."""
    data_dir: str | None = None
    """Folder of the data sets; downloads go there too. Default: that of the run, else ./data."""
    download: bool = True
    """Download the data set if it is missing."""
    image_size: Annotated[int | None, at_least(8)] = None
    """Height and width of the images in pixels. Default: that of the network's training."""
    num_workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that decode images from folders. Default: that of the run, else 8."""
    on_bad_image: OnBad | None = None
    """What to do with an image that cannot be read: stop, or count it and leave it out. Default:
    that of the run, else stop."""
    val_fraction: Annotated[float | None, FRACTION] = None
    """Fraction of a folder without train/ and val/ that is the test set. Default: that of the run,
    else 0."""

    def check(self) -> None:
        """Check the flags."""
        check_ranges(self)

    def decode_options(
        self, run: Mapping[str, Any], image_size: int | None
    ) -> tuple[str, DecodeOptions]:
        """Return the folder of the data set and how its images are decoded.

        A flag that is not given has the value of the run, else its default. Prints the values of
        the run that differ from the defaults.
        """
        given = {name: getattr(self, name) for name in self.DEFAULTS}
        given = {name: value for name, value in given.items() if value is not None}
        taken = {name: run[name] for name in self.DEFAULTS if name in run and name not in given}
        changed = {name: value for name, value in taken.items() if value != self.DEFAULTS[name]}
        if changed:
            print(describe_run_flags(changed))
        values = {**self.DEFAULTS, **taken, **given}
        data_dir = values.pop("data_dir")
        return data_dir, DecodeOptions(self.image_size or image_size, **values)


@dataclass(frozen=True, kw_only=True)
class ScoringConfig(DeviceConfig, EvalDataConfig):
    """Test images, and the device to evaluate on."""


def describe_run_flags(flags: Mapping[str, Any]) -> str:
    """Return a line about the flags that a command takes from a run."""
    return escape(f"with the flags of the run: {' '.join(f'--{n} {v}' for n, v in flags.items())}")


def read_run_flags(path: Path | str) -> dict[str, Any]:
    """Return the flags that decide which images a run used, from its `config.json`.

    `path` is a run folder or a file in it. A relative data folder that does not exist here is
    looked for where the run was started.

    Returns:
        The flags in `RUN_FLAGS` by name; {} if it is not in a run folder.

    Raises:
        InputError: if the file is damaged.
    """
    file, flags = _read_config(path)
    if not {"dataset", "save_dir"} <= flags.keys():
        return {}  # a file of another program, such as the Hugging Face Hub's
    found = {name: flags[name] for name in RUN_FLAGS if name in flags}
    for name, value in found.items():
        if not isinstance(value, RUN_FLAGS[name]) or isinstance(value, bool):
            raise InputError(f"{file} is damaged: {name} is {value!r}.")
    if "data_dir" in found and not Path(found["data_dir"]).expanduser().exists():
        there = _start_folder(file.parent, found["save_dir"]) / found["data_dir"]
        found["data_dir"] = str(there) if there.is_dir() else found["data_dir"]
    return found


def method_of_run(path: Path | str) -> str:
    """Return the losses of a run such as "crd+kd", else its network; "" outside of run folders."""
    flags = _read_config(path)[1]
    if "distill" in flags:
        return "+".join(str(flags[n]) for n in ("distill", "loss") if flags.get(n)) or "kd"
    return str(flags.get("model") or flags.get("model_s") or "")


def _read_config(path: Path | str) -> tuple[Path, dict[str, Any]]:
    """Return the `config.json` of a run folder and its content, {} if there is none."""
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return file, {}
    try:
        flags, is_verified = load_json(file)
    except NotAnObjectError:
        return file, {}
    except CorruptFileError as error:
        raise InputError(f"{file} is damaged: {error}") from error
    if not is_verified and {"dataset", "save_dir"} <= flags.keys():
        _note_unverified(file)
    return file, flags


@cache
def _note_unverified(file: Path) -> None:
    print(f"{file} is of an earlier version and has no checksum: not verified.", file=sys.stderr)


def _start_folder(folder: Path, save_dir: str) -> Path:
    """Return where a run was started, if --save_dir was relative: SAVE_DIR/KIND/models/RUN."""
    depth = 2 + len(Path(save_dir).parts)
    parents = folder.resolve().parents
    is_relative = not Path(save_dir).is_absolute() and depth < len(parents)
    return parents[depth] if is_relative else Path()
