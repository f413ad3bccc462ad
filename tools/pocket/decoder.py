"""The decoder at the whole size, and how good the autoencoder is."""

import random
from pathlib import Path

import torch
import torch.nn.functional as F

from batches import drawn
from run import Run, Time
from scenes import draw, scene
from vae import FACTOR, NOISE, decode_inner, decode_outer, encode, home, load, psnr, silent

# Drawing and encoding a scene of 1024 × 1024 takes longer than training on a part of it, so each gives several.
PARTS = 4
# Every so many steps a whole scene, which a group norm sees as it does in use.
WHOLE_EVERY = 50


def train(
    state: Path,
    concepts: list[dict],
    styles: list[str],
    time_allowed: Time,
    device: torch.device,
    seed: int,
    batch: int,
    workers: int,
) -> None:
    """The stage decoder: the silent branches of the outer levels, on parts of whole-size pictures. They learn edges.

    Everything else stays: what enlarges is exact as it is set, and any noise in it costs more than it can gain.
    """
    torch.manual_seed(seed)
    vae = load(state).train().requires_grad_(False)
    for resnet in silent(vae):
        for part in (resnet.norm1, resnet.conv1, resnet.norm2, resnet.conv2):
            part.requires_grad_(True)
    vae.to(device, memory_format=torch.channels_last)
    run = Run(home(state) / "decoder.pt", {"decoder": vae.decoder}, 1e-3, device, seed, 0.995)
    cells = 1024 // FACTOR

    def make(step: int) -> torch.Tensor:
        r = random.Random(f"decoder {seed} {step}")
        count = 1 if step % WHOLE_EVERY == WHOLE_EVERY - 1 else batch
        scenes = [scene(concepts, styles, "all", r, 0.4) for _ in range(count)]
        return torch.stack([draw(state, s, 1024, 1024) for s in scenes]).mul_(2).sub_(1)

    batches = drawn(make, run.steps, workers)
    for _ in run.budget(time_allowed, 0.4):
        whole = run.steps % WHOLE_EVERY == WHOLE_EVERY - 1
        side = cells if whole else 10
        r = random.Random(f"places {seed} {run.steps}")
        rows = []
        for x in next(batches).to(device).split(1):
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                z = encode(vae, F.avg_pool2d(x, 4).contiguous(memory_format=torch.channels_last)).float()
            for _ in range(1 if whole else PARTS):
                # Every other part lies at the picture's border, where padding with zeros makes things different.
                top, left = (
                    r.choice((0, cells - side, r.randint(0, cells - side), r.randint(0, cells - side)))
                    for _ in range(2)
                )
                rows.append((x, z, top, left))
        z = torch.cat([z[:, :, top : top + side, left : left + side] for _, z, top, left in rows])
        z = z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1, device=device) * 2 * NOISE
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            inner = decode_inner(vae, z.contiguous(memory_format=torch.channels_last))
        # In fp32, as it is used: a colour is a difference of two large numbers here.
        outcome = decode_outer(vae, inner.float())
        loss = torch.zeros((), device=device)
        quality = []
        for y, (x, _, top, left) in zip(outcome.float(), rows, strict=True):
            # A cell beside a cut is not compared: its neighbours are missing, as they never are in use.
            a, b = (0 if at == 0 else 1 for at in (top, left))
            c, d = (side if at == cells - side else side - 1 for at in (top, left))
            y = y[:, a * FACTOR : c * FACTOR, b * FACTOR : d * FACTOR]
            part = x[0, :, (top + a) * FACTOR : (top + c) * FACTOR, (left + b) * FACTOR : (left + d) * FACTOR]
            loss = loss + (4 * F.mse_loss(y, part) + 0.5 * F.l1_loss(y, part)) / len(rows)
            quality.append(psnr(y.detach()[None], part[None]))
        run.step(loss, len(rows), **{"psnr_whole" if whole else "psnr_part": torch.cat(quality).mean()})


@torch.no_grad()
def measure(
    state: Path, concepts: list[dict], styles: list[str], count: int, seed: int
) -> tuple[list[float], torch.Tensor]:
    """PSNR of scenes of 1024 × 1024 that no training saw, and pictures beside decoded ones for a sheet."""
    vae = load(state)
    r = random.Random(f"held out {seed}")
    values, pairs = [], []
    for _ in range(count):
        x = draw(state, scene(concepts, styles, "all", r, 0.4), 1024, 1024)[None] * 2 - 1
        y = vae.decode(vae.encode(x).latent_dist.mean).sample
        values.append(float(psnr(y, x)))
        pairs += [F.avg_pool2d(picture, 2) for picture in (x, y.clamp(-1, 1))]
    return values, torch.cat(pairs)
