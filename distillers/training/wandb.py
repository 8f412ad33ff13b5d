"""A run's figures on Weights & Biases, beside those in its folder (extra `wandb`)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tracker:
    """Logs every epoch of one run; a run that is gone on with continues its own page.

    Args:
        project: on Weights & Biases. WANDB_MODE=offline keeps all in the run's folder, for
            `wandb sync`.
        folder: of the run; its name becomes the page's.
        config: every flag, as plain types.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        same = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._run: Any = wandb.init(
            project=project,
            dir=str(folder),
            name=folder.name,
            id=same,
            config=dict(config),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="epoch")  # a first stage's epochs are below 1

    def log(self, row: Mapping[str, float]) -> None:
        """Add the figures of an epoch."""
        self._run.log(dict(row))

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
