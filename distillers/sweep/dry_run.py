"""Check the data sets and networks of a sweep, and print what `--dry_run` shows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from distillers import models
from distillers.config.sizes import pluralize
from distillers.config.train import TrainConfig
from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.sweep.estimate import OpenSource, estimate
from distillers.sweep.executors.local import Slots
from distillers.sweep.expand import ExpandedGrid, Run
from distillers.sweep.ledger import Ledger
from distillers.training.run_setup import open_data


def source_opener(download: bool = True) -> OpenSource:
    """Return a function from a run's flags to its data set; it opens each data set once."""
    opened: dict[object, DataSource] = {}

    def open_source(config: TrainConfig) -> DataSource:
        config = replace(config, download=config.download and download)
        options, labels = config.decode_options(), config.label_options()
        key = (config.dataset, config.data_dir, config.on_bad_image, options, labels)
        if key not in opened:
            opened[key] = open_data(config, options)
        return opened[key]

    return open_source


def check_networks(runs: Sequence[Run], open_source: OpenSource) -> None:
    """Build every network for every data set once, on the meta device."""
    checked = set()
    for run in runs:
        source = open_source(run.config)
        key = (run.network, source.num_classes, source.image_size)
        if key in checked:
            continue
        checked.add(key)
        try:
            with torch.device("meta"):
                models.create(key[0], num_classes=key[1], image_size=key[2])
        except InputError as error:
            raise InputError(f"{run.label}: {error}") from error


def print_dry_run(
    expanded: ExpandedGrid, ledger: Ledger, slots: Slots, num_concurrent: int
) -> None:
    """Print the commands of all runs, and the cost of those to do in "#" lines: a shell script."""
    runs = expanded.runs
    to_do = [run for run in runs if not ledger.is_done(run.folder)]
    num_failed = sum(ledger.has_failed(run.folder) for run in to_do)
    print(
        f"# {pluralize(expanded.num_points, 'point')} of the grid, "
        f"{pluralize(len(runs), 'run')} with their teachers: "
        f"{len(runs) - len(to_do)} done, {num_failed} failed before, {len(to_do)} to do"
    )
    for run in runs:
        done = run not in to_do
        labels = "; ".join([run.label, *expanded.other_labels.get(run.folder, [])])
        print(f"# {'done: ' if done else ''}{' '.join(labels.split())}")  # without line breaks
        print(f"{'# ' if done else ''}{run.command_line()}")
    if to_do:
        _print_costs(to_do, ledger.save_dir, slots, num_concurrent)


def _print_costs(runs: list[Run], save_dir: Path, slots: Slots, num_concurrent: int) -> None:
    open_source = source_opener(download=False)
    try:
        for run in runs:
            open_source(run.config)
    except InputError as error:
        print(f"# no estimate without the data: {' '.join(str(error).split())}")
        return
    check_networks(runs, open_source)
    device = torch.device("cpu" if slots.gpus[0] == "cpu" else f"cuda:{slots.gpus[0]}")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(slots.threads)
    try:
        total = estimate(runs, save_dir, open_source, device)
    finally:
        torch.set_num_threads(num_threads)
    hours = max(total.hours / num_concurrent, total.longest)
    print(
        f"# {total.hours:.2f} h of training, {hours:.2f} h with "
        f"{pluralize(num_concurrent, 'run')} at once, "
        f"{total.size / 1e9:.2f} GB of disk"
    )
    print(
        f"# from finished runs of the same kind: {pluralize(total.num_finished, 'kind')}; from "
        f"about a second of training with random weights, alone on {device} with "
        f"{pluralize(slots.threads, 'thread')}: {pluralize(total.num_measured, 'kind')}. The start "
        "of a process is not included."
    )
