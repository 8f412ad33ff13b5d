"""What is tried before a sweep starts: the data is there, every network can be built."""

from collections.abc import Sequence

import torch

from distillers import data, models
from distillers.config.train import TrainConfig
from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.sweep.runs import Run


class Sources:
    """The data of a sweep's runs; each set is read once, so that no two runs fetch it at once.

    Args:
        download: whether what is missing may be fetched.
    """

    def __init__(self, download: bool = True) -> None:
        self.download = download
        self._sources: dict[tuple, DataSource] = {}

    def of(self, config: TrainConfig) -> DataSource:
        """The data set that a run's flags name.

        Raises:
            InputError: when it cannot be had.
        """
        key = (config.dataset, config.data_dir, config.decode_options())
        if key not in self._sources:
            name, folder, reading = key
            download = config.download and self.download
            self._sources[key] = data.source_of(name, folder, download, reading)
        return self._sources[key]


def check_networks(runs: Sequence[Run], sources: Sources) -> None:
    """Build every network of every data set once, without memory for its weights.

    Raises:
        InputError: for one that there is not, and the first run that asks for it.
    """
    seen = set()
    for run in runs:
        source = sources.of(run.config)
        key = (run.network, source.num_classes, source.image_size)
        if key in seen:
            continue
        seen.add(key)
        try:
            with torch.device("meta"):
                models.create(key[0], num_classes=key[1], image_size=key[2])
        except InputError as error:
            raise InputError(f"{run.label}: {error}") from error
