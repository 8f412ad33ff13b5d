"""Find run folders, and load them into records and data frames."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from distillers.errors import InputError
from distillers.report.records import RunRecord, UnreadableRun, to_frame
from distillers.report.run_folder import read_run

if TYPE_CHECKING:
    from pandas import DataFrame

RUN_FILES = ("config.json", "metrics.jsonl", "environment.json", "parameters.json", "summary.json")
PARALLEL_FROM = 500  # folders


def load_runs(paths: Iterable[str | Path]) -> "DataFrame":
    """Load every finished run below some folders into a data frame, one row a run.

    The columns are the attributes of `RunRecord`, and one column for each selection rule in
    `RULES` with the test accuracy in percent. `frame.attrs["not_counted"]` lists the folders that
    were left out as (folder, kind, reason).

    Args:
        paths: run folders, or folders of run folders at any depth.

    Raises:
        InputError: if a folder does not exist.
    """
    found = read_runs(find_run_dirs(Path(path) for path in paths))
    frame = to_frame([run for run in found if isinstance(run, RunRecord)])
    unreadable = [run for run in found if isinstance(run, UnreadableRun)]
    frame.attrs["not_counted"] = [(run.folder, run.kind, run.reason) for run in unreadable]
    return frame


def find_run_dirs(roots: Iterable[Path]) -> list[Path]:
    """Find every run folder below some folders, each once.

    Symbolic links are followed only where they are given as a root.
    """
    found: dict[tuple[int, int], Path] = {}
    for root in roots:
        if not root.is_dir():
            raise InputError(f"there is no folder {root}.")
        for folder in _walk_run_dirs(root):
            status = folder.stat()
            found.setdefault((status.st_dev, status.st_ino), folder)
    return sorted(found.values())


def read_runs(folders: Sequence[Path]) -> list[RunRecord | UnreadableRun]:
    """Read run folders in order, many of them in one process per core.

    Processes are forked, which is safe only while this process has a single thread.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1
    if len(folders) < PARALLEL_FROM or not can_fork:
        return [read_run(folder) for folder in folders]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(read_run, folders, chunksize=100))


def _walk_run_dirs(root: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(root):
        here = Path(path)
        has_run_name = here.name.startswith("S_") or "_vanilla_" in here.name
        is_empty_run = has_run_name and not files and not folders
        if is_empty_run or "tensorboard" in folders or any(name in files for name in RUN_FILES):
            yield here
        folders[:] = [name for name in folders if name != "tensorboard" and name[0] != "."]
