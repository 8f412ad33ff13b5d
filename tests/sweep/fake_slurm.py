"""A fake SLURM in a folder: sbatch, srun, sacct and scontrol as submitit calls them.

Jobs wait until there is a file `go`. Each keeps its script, its state and the process of its group.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # it lies in ROOT/bin
VALUED = ("--output", "--error")


def sbatch(script):
    number = str(100 + len(list(ROOT.glob("*.script"))))
    (ROOT / f"{number}.script").write_text(Path(script).read_text())
    launch(number)
    print(f"Submitted batch job {number}")


def launch(number):
    (ROOT / f"{number}.state").write_text("PENDING")
    words = [sys.executable, str(Path(__file__).with_name("job")), number]
    with (ROOT / f"{number}.out").open("a") as out:
        group = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    (ROOT / f"{number}.group").write_text(str(group.pid))


def job(number):
    import time

    while not (ROOT / "go").exists():
        time.sleep(0.05)
    state = ROOT / f"{number}.state"
    state.write_text("RUNNING")
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    environment |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
    code = subprocess.run(["bash", str(ROOT / f"{number}.script")], env=environment).returncode
    if state.read_text() != "REQUEUED":
        state.write_text("FAILED" if code else "COMPLETED")
        return
    launch(number)


def srun(*words):
    words = list(words)
    while words[0].startswith("--"):
        if words.pop(0) in VALUED:
            words.pop(0)
    number = os.environ["SLURM_JOB_ID"]
    (ROOT / f"{number}.pid").write_text(str(os.getpid()))
    os.execvp(words[0], words)


def sacct(*words):
    print("JobID|State|NodeList")
    for number in (words[n + 1] for n, word in enumerate(words) if word == "-j"):
        state = ROOT / f"{number}.state"
        if state.exists():
            print(f"{number}|{state.read_text()}|here")


def scontrol(verb, number):
    assert verb == "requeue"
    (ROOT / f"{number}.state").write_text("REQUEUED")


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](*sys.argv[1:])
