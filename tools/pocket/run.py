"""A training run: its budget of minutes, its learning rate, averaged weights, checkpoint and log."""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

WARM_STEPS = 100
LOG_EVERY_S = 30
SAVE_EVERY_S = 180


def device_of(name: str) -> torch.device:
    """The device that was asked for; auto is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@dataclass(frozen=True)
class Time:
    """How long a stage may take: minutes of the clock, or, on a shared machine, of the processor (all threads at work)."""

    minutes: float
    of_processor: bool = False


class Run:
    """Owns what training changes. Each call trains for some minutes, ends with a falling learning rate, and saves.

    A later call goes on: weights, averages, the optimizer's state, counters and the random stream come back. SIGTERM and
    SIGINT end the run at the next step with a checkpoint. Minutes are those of the clock; the log also tells those of the
    processor, for a shared machine.
    """

    def __init__(
        self,
        file: Path,
        modules: dict[str, nn.Module],
        rate: float,
        device: torch.device,
        seed: int,
        decay: float = 0.999,
    ):
        self.file, self.modules, self.rate, self.device, self.decay = file, modules, rate, device, decay
        parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
        self.average = {k: [p.detach().clone() for p in m.parameters()] for k, m in modules.items()}
        self.steps = self.samples = 0
        self.minutes = self.processor_minutes = 0.0
        self.sums: dict[str, list[float]] = {}
        self.stopped = False
        torch.manual_seed(seed)
        if file.exists():
            self.restore()

    def restore(self) -> None:
        """Read the checkpoint."""
        saved = torch.load(self.file, map_location=self.device, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
            self.average[name] = saved["average"][name]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.steps, self.samples, self.minutes, self.processor_minutes = saved["counters"]
        torch.set_rng_state(saved["random"].cpu())
        print(
            f"{self.file.name}: going on after {self.steps} steps, {self.samples} samples, {self.minutes:.1f} minutes",
            flush=True,
        )

    def save(self) -> None:
        """Write the checkpoint; a crash leaves the one before."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.file.with_suffix(".part")
        torch.save(
            {
                "modules": {k: m.state_dict() for k, m in self.modules.items()},
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "counters": (self.steps, self.samples, self.minutes, self.processor_minutes),
                "random": torch.get_rng_state(),
            },
            scratch,
        )
        os.replace(scratch, self.file)

    def budget(self, time_allowed: Time, cool: float) -> Iterator[float]:
        """Yield the part of the time that is over, 0..1, until it is; the last `cool` of it with a falling rate."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        start = last = saved = time.monotonic()
        before, before_processor, threads = self.minutes, self.processor_minutes, torch.get_num_threads()
        processor = time.process_time()
        while not self.stopped:
            now = time.monotonic()
            worked = (time.process_time() - processor) / threads
            spent = worked if time_allowed.of_processor else now - start
            if spent >= time_allowed.minutes * 60:
                break
            part = spent / (time_allowed.minutes * 60)
            falling = (
                1
                if cool == 0 or part < 1 - cool
                else 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * (part - 1 + cool) / cool))
            )
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * falling * min(1, (self.steps + 1) / WARM_STEPS)
            yield part
            self.minutes = before + (time.monotonic() - start) / 60
            self.processor_minutes = before_processor + (time.process_time() - processor) / 60 / threads
            if now - last > LOG_EVERY_S:
                self.log()
                last = now
            if now - saved > SAVE_EVERY_S:
                self.save()
                saved = now
        self.log()
        self.save()

    def stop(self, *_: object) -> None:
        """End after this step."""
        self.stopped = True

    def step(self, loss: torch.Tensor, samples: int, **values: torch.Tensor | float) -> None:
        """One step down the gradient; `values` go into the log as means."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.steps += 1
        self.samples += samples
        decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
        with torch.no_grad():
            for name, module in self.modules.items():
                torch._foreach_lerp_(self.average[name], [p.detach() for p in module.parameters()], 1 - decay)
        for key, value in {"loss": loss.detach(), **values}.items():
            self.sums.setdefault(key, []).append(float(value))

    def log(self) -> None:
        """A line on standard output, and one of JSON in the log beside the checkpoint."""
        if not self.sums:
            return
        means = {k: sum(v) / len(v) for k, v in self.sums.items()}
        self.sums = {}
        row = {"steps": self.steps, "samples": self.samples, "minutes": round(self.minutes, 2), "processor_minutes": round(self.processor_minutes, 2), **{k: round(v, 5) for k, v in means.items()}}  # fmt: skip
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.with_suffix(".jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        speed = self.samples / max(self.minutes * 60, 1e-9)
        print(" ".join(f"{k} {v}" for k, v in row.items()), f"({speed:.1f} samples/s)", flush=True)


def averaged(file: Path, modules: dict[str, nn.Module]) -> tuple[int, int, float, float]:
    """Load the averaged weights of a checkpoint; its steps, samples, minutes and processor minutes."""
    if not file.exists():
        raise SystemExit(f"{file} is missing: run the stage that makes it first")
    saved = torch.load(file, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for name, module in modules.items():
            module.load_state_dict(saved["modules"][name])
            for parameter, average in zip(module.parameters(), saved["average"][name], strict=True):
                parameter.copy_(average)
    return saved["counters"]
