"""Load by other programs is noticed, own load is not."""

import multiprocessing
import sys
import time

import pytest
import torch
from torch import nn

from distillers import timing
from distillers.models.profile import latencies_ms


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_the_load_of_other_processes_is_measured():
    other = multiprocessing.get_context("spawn").Process(target=spin, args=(30,))
    other.start()
    time.sleep(2)  # it imports torch
    meter = timing.LoadMeter()
    spin(0.5)
    busy = meter.busy_cores()
    other.terminate()
    other.join()
    assert busy is not None
    assert busy > 0.2


def test_own_work_is_no_load_of_others(monkeypatch):
    own, ticks, now = [1.0], [100], [0.0]
    monkeypatch.setattr(timing.os, "times", lambda: (own[0], 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(timing.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(timing, "_read_busy_ticks", lambda: ticks[0])
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    meter = timing.LoadMeter()
    assert meter.busy_cores() is None  # too early
    own[0], ticks[0], now[0] = 3.0, 300, 2.0
    assert meter.busy_cores() == 0
    assert meter.warning() == ""
    ticks[0] += 400  # of another program
    assert meter.busy_cores() == 2
    assert meter.warning().startswith("other programs kept 2.0 of ")


def test_latencies_are_interleaved_and_leave_the_networks_as_they_were():
    order = []

    class Noted(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.scale = name, nn.Parameter(torch.ones(()))

        def forward(self, images):
            assert not self.training
            order.append(self.name)
            return images * self.scale

    nets = {name: Noted(name) for name in "ab"}
    found = latencies_ms({name: (net, 4, 1) for name, net in nets.items()}, repeats=5)
    assert set(found) == {"a", "b"}
    assert min(found.values()) > 0
    assert order[:16] == ["a", "b"] * 8
    assert all(net.training for net in nets.values())
