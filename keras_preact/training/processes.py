"""The processes of a run, one after the other: on what each computed, and for how long. A resumed run has several."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from keras_preact.training.provenance import versions

if TYPE_CHECKING:
    from keras_preact.training.checkpoints import Checkpoint
    from keras_preact.training.prefetch import Feed
    from keras_preact.training.source import Source
    from keras_preact.training.strategies import Devices


class Clock:
    """Measures the time, and the processors' time, of this process from now on."""

    def __init__(self) -> None:
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        """Returns the seconds since the start."""
        return time.perf_counter() - self.started

    def cpu_seconds(self) -> float:
        """Returns the seconds that this process has kept processors busy since the start."""
        return time.process_time() - self.cpu


class Processes:
    """Counts what all processes of a run have done, up to the last checkpoint of each that was killed.

    Args:
        clock: The `Clock` of this process.
        devices: The run's `Devices`.
        checkpoint: The `Checkpoint` that the run resumes from, or None.
        batch: Images in a step.
    """

    def __init__(self, clock: Clock, devices: Devices, checkpoint: Checkpoint | None, batch: int) -> None:
        self.clock, self.devices, self.batch = clock, devices, batch
        self.before = list(checkpoint.processes) if checkpoint else []
        self.first_step = self.step = checkpoint.step if checkpoint else 0
        self.feeds: list[Feed] = []
        self.fit_started: float | None = None
        self.fit_seconds, self.others = 0.0, 0.0

    def begin_fit(self) -> None:
        """Starts to count the time of training."""
        self.fit_started = time.perf_counter()

    def end_fit(self) -> None:
        """Ends the count of the time of training."""
        if self.fit_started is not None:
            self.fit_seconds = time.perf_counter() - self.fit_started

    def reach(self, step: int) -> None:
        """Notes a step that was reached; all workers call this together, as they add up their processors' time."""
        own = self.clock.cpu_seconds()
        self.step, self.others = step, self.devices.total(round(1000 * own)) / 1000 - own

    def plain(self) -> list[dict[str, Any]]:
        """Returns a dict per process, the first one first, as JSON holds it; this one's up to now."""
        training = self.fit_seconds or (time.perf_counter() - self.fit_started if self.fit_started else 0.0)
        devices = {"strategy": self.devices.name, "replicas": self.devices.replicas, "kind": self.devices.kind}
        mine = {
            "devices": {**devices, "workers": self.devices.workers},
            "versions": versions(),
            "first_step": self.first_step,
            "last_step": self.step,
            "images": (self.step - self.first_step) * self.batch,
            "seconds": round(self.clock.seconds(), 2),
            "cpu_seconds": round(self.clock.cpu_seconds() + self.others, 2),
            "training_seconds": round(training, 3),
            "data_wait_seconds": round(sum(feed.waited for feed in self.feeds), 3),
        }
        return [*self.before, mine]


def chained(own: Mapping[str, Any], start: Source | None) -> dict[str, Any]:
    """Returns the fields of a card that tell of the trainings that a run began with, and add up their seconds.

    Args:
        own: What `totals` returns.
        start: The `Source` that the run began with, or None.
    """
    if start is None:
        return {}
    chain = list(start.chain) or [{"weights": start.name, "digest": start.digest}]
    known = [name for name in ("seconds", "cpu_seconds") if all(name in training for training in chain)]
    total = {f"total_{name}": round(own[name] + sum(training[name] for training in chain), 1) for name in known}
    return {"chain": chain, **total}


def totals(processes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the fields of a card that add up over all processes, dicts of `Processes.plain`."""
    names = ("images", "seconds", "cpu_seconds", "training_seconds", "data_wait_seconds")
    total = {name: sum(process[name] for process in processes) for name in names}
    training = total["training_seconds"] if total["images"] else None
    return {
        "seconds": round(total["seconds"], 1),
        "cpu_seconds": round(total["cpu_seconds"], 1),
        "images_per_second": round(total["images"] / training, 1) if training else None,
        "data_wait_percent": round(100 * total["data_wait_seconds"] / training, 1) if training else None,
    }
