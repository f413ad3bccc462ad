"""The decoder's inner part against pictures of the whole size, and how good the autoencoder is."""

import random
from pathlib import Path

import torch
import torch.nn.functional as F

from batches import drawn
from run import Run, Time
from scenes import draw, scene
from vae import NOISE, decode_inner, encode, home, load, parts, psnr


def enlarge(colours: torch.Tensor) -> torch.Tensor:
    """What the outer levels do as set_outer sets them: twice as large, bilinearly, and twice again."""
    for _ in range(2):
        colours = F.interpolate(colours, scale_factor=2, mode="bilinear", align_corners=False)
    return colours


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
    """The stage decoder: the inner part learns what looks best once it is enlarged. The encoder stays.

    The colours at a quarter of the size that enlarge best are not the picture made small: their edges go beyond, as a
    sharpened picture's do. Whole pictures, because a group norm sees the whole; the outer levels cost nothing, since what
    they do to three colours is known.
    """
    torch.manual_seed(seed)
    vae, head = parts(state)
    vae.requires_grad_(False)
    d = vae.decoder
    for part in (d.conv_in, d.mid_block, *d.up_blocks[:3], d.up_blocks[3].resnets):
        part.requires_grad_(True)
    vae.to(device, memory_format=torch.channels_last)
    head.to(device)
    run = Run(home(state) / "decoder.pt", {"decoder": d, "head": head}, 3e-4, device, seed, 0.99)

    def make(step: int) -> torch.Tensor:
        r = random.Random(f"decoder {seed} {step}")
        rows = [draw(state, scene(concepts, styles, "all", r, 0.4), 1024, 1024) for _ in range(batch)]
        return torch.stack(rows).mul_(2).sub_(1)

    batches = drawn(make, run.steps, workers)
    for _ in run.budget(time_allowed, 0.5):
        x = next(batches).to(device)
        quarter = F.avg_pool2d(x, 4).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                z = encode(vae, quarter).float()
            z = z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1, device=device) * NOISE
            h = decode_inner(vae, z)
        y = enlarge(head(h.float()))
        # What lies beyond white or black is cut off later: it is wrong only where the picture itself is neither.
        y = y + (y.clamp(-1, 1) - y).detach()
        square = (y - x).square().mean((1, 2, 3))
        # The mean of all pictures' decibels.
        run.step((square + 1e-5).log().mean(), len(x), psnr=psnr(y.detach(), x).mean())


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
