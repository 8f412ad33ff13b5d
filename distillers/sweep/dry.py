"""What `--dry_run` tells: the command of every run, and what those that are left will cost."""

import torch

from distillers.errors import InputError
from distillers.sweep.checks import Sources, check_networks
from distillers.sweep.engine import Slots
from distillers.sweep.estimate import estimate
from distillers.sweep.ledger import Ledger
from distillers.sweep.runs import Plan, Run


def tell(plan: Plan, ledger: Ledger, save_dir: str, slots: Slots, at_once: int) -> None:
    """Print the commands, everything else behind "#", so that the whole is a shell script.

    Args:
        plan: the runs.
        ledger: which of them are done or failed.
        save_dir: where they are saved.
        slots: the devices of this machine, the first of which is measured on.
        at_once: how many runs will run at once.
    """
    left = [run for run in plan.runs if not ledger.is_done(run.folder)]
    failed = [run for run in left if ledger.has_failed(run.folder)]
    print(
        f"# {plan.points} points of the grid, {len(plan.runs)} runs with their teachers: "
        f"{len(plan.runs) - len(left)} done, {len(failed)} failed before, {len(left)} to do"
    )
    for run in plan.runs:
        note = "" if run in left else "done: "
        labels = "; ".join([run.label, *plan.twins.get(run.folder, [])])
        print(f"# {note}{' '.join(labels.split())}")  # on one line, whatever they hold
        print(f"# {run.line()}" if note else run.line())
    if left:
        _tell_costs(left, save_dir, slots, at_once)


def _tell_costs(left: list[Run], save_dir: str, slots: Slots, at_once: int) -> None:
    sources = Sources(download=False)
    try:
        for run in left:
            sources.of(run.config)
    except InputError as error:
        print(f"# no estimate without the data: {' '.join(str(error).split())}")
        return
    check_networks(left, sources)
    device = torch.device("cpu" if slots.gpus[0] == "cpu" else f"cuda:{slots.gpus[0]}")
    before = torch.get_num_threads()
    torch.set_num_threads(slots.threads)
    try:
        found = estimate(left, save_dir, sources, device, lambda text: print(f"# {text}"))
    finally:
        torch.set_num_threads(before)
    hours = max(found.hours / at_once, found.longest)
    print(
        f"# {found.hours:.2f} h of training, {hours:.2f} h where {at_once} run at once, "
        f"{found.size / 1e9:.2f} GB of disk"
    )
    print(
        f"# by finished runs of the same kind: {found.finished} kinds; by about a second of "
        f"training each with random weights, alone on {device}, {slots.threads} threads: "
        f"{found.measured} kinds. The start of a process is not counted."
    )
