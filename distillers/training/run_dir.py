"""Find the folder of a run, and the checkpoint in it to resume from."""

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.shards import weights_sha256
from distillers.config.run_files import METRICS
from distillers.config.sizes import pluralize
from distillers.config.train import TrainConfig
from distillers.distributed.world import World
from distillers.errors import CorruptFileError, InputError, complain
from distillers.files import file_name
from distillers.training.state import RunState

# Set by torchrun and by SLURM where they start a run again by themselves.
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


@dataclasses.dataclass(frozen=True)
class RunDir:
    """The folder of a run, its checkpoints, and the state to resume from.

    Attributes:
        folder: the run folder; it may not exist yet.
        name: name of the network, as in the names of the files.
        state: content of the checkpoint to resume from, or None.
        read_at: modification time of the last checkpoint when `state` was read.
    """

    folder: Path
    name: str
    state: RunState | None
    read_at: int | None = None

    @property
    def best(self) -> Path:
        """Checkpoint of the reported epoch."""
        return self.folder / f"{self.name}_best.pth"

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.folder / f"{self.name}_last.pth"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last one, in case that is damaged."""
        return self.folder / f"{self.name}_previous.pth"

    @property
    def last_saved(self) -> int | None:
        """Modification time of the last checkpoint in nanoseconds; None without one."""
        return self.last.stat().st_mtime_ns if self.last.exists() else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that no other process trains in it.

        Raises:
            InputError: if another process does, or did since `state` was read.
        """
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                f"another process trains in {self.folder} at this moment; wait for its end, or "
                "stop it, and continue with --resume."
            ) from error
        except OSError:  # a file system without locks
            pass
        try:
            if self.state is not None and self.last_saved != self.read_at:
                raise InputError(
                    f"another process has continued the run in {self.folder} since this one read "
                    "it; start this one again with --resume."
                )
            yield
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    @property
    def done(self) -> int | None:
        """Last finished epoch; None in a new run."""
        return self.state.trainer.epoch if self.state else None


def resolve_run_dir(folder: Path, network: str, config: TrainConfig, world: World) -> RunDir:
    """Find out whether to start or to resume a run; nothing is written.

    Raises:
        InputError: if the folder exists and neither --resume nor --overwrite was given, or if no
            checkpoint in it can be read.
    """
    run_dir = RunDir(folder, file_name(network), None)
    run_dir = dataclasses.replace(run_dir, read_at=run_dir.last_saved)
    state = world.run_on_rank0(lambda: find_checkpoint(run_dir, config))
    if state and state.trainer.world_size != world.size:
        world.say(
            f"resumed by {pluralize(world.size, 'process')} instead of {state.trainer.world_size}: "
            "the order of the images is the same; random draws and batch statistics of each "
            "process are not."
        )
    return dataclasses.replace(run_dir, state=state)


def check_same_source(
    run_dir: RunDir, where: tuple[str, str], path: Path | str, here: str | None = None
) -> None:
    """Refuse to resume a run if the network that it started from has changed.

    `where` has the keys of the network's checksum in the card of the run; `here` is its checksum
    now, by default that of the file `path`.
    """
    section, key = where
    known = run_dir.state.card.get(section, {}).get(key) if run_dir.state else None
    if known is None:
        return
    here = here or weights_sha256(Path(path))
    if known != here:
        raise InputError(
            f"{run_dir.folder} began with another network than {path} holds now (sha256 "
            f"{known[:12]} then, {here[:12]} now); name the folder of that network's run, or start "
            "anew with --overwrite instead of --resume."
        )


def find_checkpoint(run_dir: RunDir, config: TrainConfig) -> RunState | None:
    """Return the state to resume from, or None to start anew; see `resolve_run_dir`."""
    if run_dir.folder.exists() and not run_dir.folder.is_dir():
        raise InputError(f"{run_dir.folder} is a file, not the folder of a run; move it away.")
    is_restart = any(int(os.environ.get(name, "0")) for name in RESTARTS)
    if not run_dir.folder.exists():
        if config.resume:
            print(f"{run_dir.folder} is not there yet; nothing to resume, the run starts anew")
        return None
    if config.overwrite and not is_restart:
        return None
    if not config.resume and not is_restart:
        raise InputError(
            f"{run_dir.folder} holds an earlier run with the same flags; add --resume to go on "
            "with it or --overwrite to delete it."
        )
    return _read_newest(run_dir)


def _read_newest(run_dir: RunDir) -> RunState | None:
    """Read the last checkpoint or, where it is damaged, the previous one; None without either."""
    damage = []
    for path in (run_dir.last, run_dir.previous):
        if not path.exists():
            continue
        try:
            content = checkpoint.read(path)
        except CorruptFileError as error:
            complain(f"WARNING: {error}")
            damage.append(str(error))
            continue
        if content.get("format", 0) > checkpoint.FORMAT:
            raise InputError(f"{path} was written by a newer version of distillers; update it.")
        state = RunState.from_dict(content, path)
        if path == run_dir.previous:
            complain(f"WARNING: resuming from {path} of epoch {state.trainer.epoch}.")
        return state
    if damage:
        raise InputError(
            f"no checkpoint can be read: {' '.join(damage)} Nothing was changed; restore one, or "
            "start anew with --overwrite."
        )
    rows = run_dir.folder / METRICS
    is_finished = (run_dir.folder / "summary.json").exists()
    if is_finished or (rows.exists() and rows.read_bytes().count(b"\n") > 1):
        raise InputError(
            f"{run_dir.folder} has epochs that are done, but not {run_dir.last.name} to go on "
            "from; restore it, or start anew with --overwrite."
        )
    complain(f"{run_dir.folder} has no checkpoint yet; the run starts anew.")
    return None
