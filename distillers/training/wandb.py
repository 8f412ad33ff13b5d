"""Log a run to Weights & Biases (extra `wandb`)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tracker:
    """Log every epoch of a run; a run that is resumed continues its page.

    Args:
        project: name of the project. With WANDB_MODE=offline the logs stay in the run folder, for
            `wandb sync`.
        folder: the run folder, whose name becomes that of the page.
        config: every flag, as JSON types.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        run_id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._run: Any = wandb.init(
            project=project,
            dir=str(folder),
            name=folder.name,
            id=run_id,
            config=dict(config),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="epoch")  # those of a warm-up stage are below 1

    def log(self, row: Mapping[str, float]) -> None:
        """Log the metrics of an epoch."""
        self._run.log(dict(row))

    def close(self) -> None:
        """Send what was logged and finish the page."""
        self._run.finish()
