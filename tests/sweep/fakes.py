"""An executor whose runs take no time and write what real ones write; grids from text."""

import json
from pathlib import Path

from distillers.config.yaml_text import parse_yaml
from distillers.sweep.grid_file import build_grid
from distillers.sweep.ledger import DONE, START_MARKER


def parse_grid(text, source):
    """Parse a grid in YAML or JSON; `source` is its name in messages."""
    return build_grid(parse_yaml(text, f"the grid {source}"), source)


def count_starts(ledger, run_dir):
    """Return how often a run was started, by its log."""
    log = ledger.log(run_dir)
    return log.read_text("utf-8", errors="replace").count(START_MARKER) if log.is_file() else 0


class Killed(BaseException):
    """Simulates SIGKILL of the driver; nothing catches it."""


class FakeExecutor:
    """Executes one epoch of every run at each poll.

    Args:
        places: runs at once.
        epochs: of each run.
        statuses: exit status by a part of the folder's name; 0 writes the result.
        kill_at: looks until the driver is killed.
    """

    def __init__(self, places=2, epochs=3, statuses=None, kill_at=None):
        self.threads = 1
        self.places, self.epochs, self.statuses = places, epochs, statuses or {}
        self.kill_at = kill_at
        self.running, self.started, self.stopped, self.looks = {}, [], False, 0

    def has_room(self):
        return len(self.running) < self.places

    def submit(self, job):
        assert self.has_room()
        assert job.folder not in {j.folder for j in self.running}
        assert not (Path(job.folder) / DONE).exists()
        self.started.append(job.folder)
        self.running[job] = done_epochs(job.folder)

    def pop_finished(self):
        self.looks += 1
        if self.looks == self.kill_at:
            raise Killed
        over = []
        for job, epoch in list(self.running.items()):
            status = next((s for part, s in self.statuses.items() if part in job.folder), 0)
            if epoch < self.epochs and not status:
                self.running[job] = epoch + 1
                record(job.folder, epoch + 1)
                continue
            if not status:
                (Path(job.folder) / DONE).write_text("{}")
            over.append((job, status))
            del self.running[job]
        return over

    def shutdown(self):
        self.stopped = True


def done_epochs(folder):
    path = Path(folder) / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def record(folder, epochs):
    Path(folder).mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"epoch": n, "test_acc": 10.0 * n}) for n in range(1, epochs + 1)]
    (Path(folder) / "metrics.jsonl").write_text("\n".join(rows) + "\n")
