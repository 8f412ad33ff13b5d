"""Write the flags, environment and metrics of a run to its folder."""

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distillers import __version__
from distillers.config.run_files import (
    METRICS,
    check_epochs,
    dump_json,
    dump_metrics,
    load_metrics,
)
from distillers.errors import CorruptFileError, InputError, complain
from distillers.files import write_atomically


class RunLogger:
    """Write the logs of one run.

    These are `config.json` and `environment.json` at the start and, after every epoch, a line of
    `metrics.jsonl`, the TensorBoard scalars and, in the project `wandb`, a row on the run's page.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], epoch: int = 0, wandb: str | None = None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.rows = [row for row in read_metrics(folder, epoch) if row["epoch"] <= epoch]
        self.write_json("config.json", config)
        self.write_json("environment.json", environment())
        self._write_rows()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)
        self._page = _open_page(wandb, folder, config) if wandb else None

    def epoch(self, row: Mapping[str, float]) -> None:
        """Log the metrics of an epoch."""
        self.rows.append(dict(row))
        self._write_rows()
        for name, value in row.items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(row["epoch"]))
        self._board.flush()
        if self._page:
            self._page.log(dict(row))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file with its checksum to the folder."""
        write_atomically(self.folder / name, dump_json(content))

    def close(self) -> None:
        """Close the TensorBoard file and the page on Weights & Biases."""
        self._board.close()
        if self._page:
            self._page.finish()

    def _write_rows(self) -> None:
        write_atomically(self.folder / METRICS, dump_metrics(self.rows))


def read_metrics(folder: Path, epoch: int = 0) -> list[dict[str, float]]:
    """Read the rows of `metrics.jsonl`, which must reach `epoch`; none if there is no such file.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / METRICS
    if not path.exists():
        if epoch:
            complain(f"{path} is missing: it will lack the epochs up to {epoch}.")
        return []
    try:
        rows, is_verified = load_metrics(path)
        check_epochs(rows)
        last = rows[-1]["epoch"] if rows else epoch
        if last < epoch:
            raise CorruptFileError(f"{METRICS} ends with epoch {last}, not {epoch}.")
    except CorruptFileError as error:
        raise InputError(
            f"{folder}: {error} Restore the file, or remove it to resume without the records of "
            "the epochs that are done."
        ) from error
    if rows and not is_verified:
        complain(f"{path} is of an earlier version and has no checksums: not verified.")
    return rows


def environment() -> dict[str, Any]:
    """Return versions, device and source revision, for `environment.json`."""
    names = ("torch", "torchvision", "timm", "numpy")
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "distillers": __version__,  # known to a clone that is not installed, too
        **{name: importlib.metadata.version(name) for name in names},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cpu_threads": torch.get_num_threads(),
        "revision": revision(),
        "command": sys.argv,
    }


def revision() -> str | None:
    """Return the commit of the source, with "+changes" if files differ; None without git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    if commit.returncode != 0:
        return None
    return commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def _open_page(project: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """Open the page of a run on Weights & Biases; a run that is resumed continues its page."""
    import wandb

    page = wandb.init(
        project=project,
        dir=str(folder),
        name=folder.name,
        id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
        config=dict(config),
        resume="allow",
    )
    page.define_metric("*", step_metric="epoch")  # those of a warm-up stage are below 1
    return page
