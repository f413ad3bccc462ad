"""Scenes as latents and token ids, in files of 250, and how latents are scaled for the UNet."""

import json
import os
import random
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import vae
from batches import drawn
from networks import tokens
from scenes import Scene, draw, scene

PART = 250
TOGETHER = 10


def folder(state: Path) -> Path:
    """Where the files lie."""
    return vae.home(state) / "latents"


def make(
    state: Path,
    concepts: list[dict],
    styles: list[str],
    mix: str,
    plain: float | None,
    count: int,
    size: tuple[int, int],
    device: torch.device,
    seed: int,
    workers: int,
) -> None:
    """Draw and encode scenes until there are `count` of this mix and size; a file's content depends on its name alone."""
    width, height = size
    name = f"{width}x{height}-{mix}-{len(concepts)}-{'+'.join(styles)}"
    if plain is not None:
        name += f"-plain{plain:g}"
    network = vae.load(state).to(device, memory_format=torch.channels_last)
    folder(state).mkdir(parents=True, exist_ok=True)
    for part in range(-(-count // PART)):
        target = folder(state) / f"{name}-{part:03}.safetensors"
        if target.exists():
            continue
        r = random.Random(zlib.crc32(f"{seed} {target.name}".encode()))
        scenes = [scene(concepts, styles, mix, r, plain) for _ in range(PART)]

        def make_pictures(at: int, scenes: list[Scene] = scenes) -> torch.Tensor:
            part = scenes[at * TOGETHER : (at + 1) * TOGETHER]
            return torch.stack([draw(state, s, width // 4, height // 4) for s in part]).mul_(2).sub_(1)

        rows = []
        for x in drawn(make_pictures, 0, workers, PART // TOGETHER):
            x = x.to(device).contiguous(memory_format=torch.channels_last)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                rows.append(vae.encode(network, x).float().half().cpu())
        captions = [s.caption for s in scenes]
        scratch = target.with_suffix(".part")
        save_file(
            {"z": torch.cat(rows).contiguous(), "ids": tokens(state, captions).to(torch.int16)},
            scratch,
            {"captions": json.dumps(captions)},
        )
        os.replace(scratch, target)
        print(f"{target.name}: {PART * (part + 1)} scenes", flush=True)


def scales(state: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """What is taken from each channel, and what it is divided by. Measured once, on the first file, and kept;
    nothing and one for an autoencoder that began as an exported one.

    Half whitened: a channel of a tenth of the largest one's deviation is brought to a third of it. Wholly whitened, the
    finest details would count as much as the colours; not at all, they would drown in the noise until the last steps.
    """
    file = state / "scales.json"
    if not file.exists():
        file = folder(state) / "scales.json"
    if not file.exists():
        first = sorted(folder(state).glob("1024x1024-*.safetensors"))
        if not first:
            raise SystemExit(f"{folder(state)} has no file 1024x1024-…: run the stage latents first")
        z = load_file(first[0])["z"].float()
        deviation = z.std((0, 2, 3))
        file.write_text(
            json.dumps({"mean": z.mean((0, 2, 3)).tolist(), "divisor": (deviation * deviation.max()).sqrt().tolist()})
        )
    saved = json.loads(file.read_text())
    return torch.tensor(saved["mean"]), torch.tensor(saved["divisor"])


def load(state: Path, pattern: str) -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """All scenes whose file's name fits: (height, width) → scaled latents (N, 16, h, w) in fp16 and ids (N, 2, 77)."""
    mean, divisor = (t[None, :, None, None] for t in scales(state))
    rows: dict[tuple[int, int], list[dict[str, torch.Tensor]]] = {}
    for file in sorted(folder(state).glob(pattern)):
        if file.suffix == ".safetensors":
            content = load_file(file)
            content["z"] = ((content["z"].float() - mean) / divisor).half()
            rows.setdefault(tuple(32 * n for n in content["z"].shape[2:]), []).append(content)
    if not rows:
        raise SystemExit(f"no latents in {folder(state)} fit {pattern!r}: run the stage latents first")
    return {
        size: (torch.cat([c["z"] for c in many]), torch.cat([c["ids"] for c in many]).long())
        for size, many in rows.items()
    }
