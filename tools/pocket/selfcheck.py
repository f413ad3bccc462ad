"""Does the pipeline do what its documents say? python tools/pocket/selfcheck.py: seconds, without data."""

import json
import tempfile
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

import backgrounds
import outer
import unet
import vae
from concepts import LIST, TIERS
from decoder import enlarge
from evaluate import border_colour
from export import fold
from networks import WIDTH, WIDTH_2
from networks import unet as new_unet
from run import Run, Time


def check(what: str, value: float, limit: float) -> None:
    """Print a figure and end with an error if it is above its limit."""
    print(f"{what}: {value:.5f} (at most {limit})")
    if not value <= limit:
        raise SystemExit(f"{what}: {value} is above {limit}")


@torch.no_grad()
def check_unet() -> None:
    """The untrained UNet answers with its input where the noise is strong: the median of eight initial ones."""
    apart: dict[int, list[float]] = {850: [], 999: []}
    for seed in range(8):
        torch.manual_seed(seed)
        network = new_unet()
        unet.precondition(network)
        x = torch.randn(4, 16, 32, 32)
        states, pooled = torch.randn(4, 77, WIDTH + WIDTH_2), torch.randn(4, WIDTH_2)
        time_ids = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]]).expand(4, -1)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        for t, values in apart.items():
            y = network(x, torch.tensor(t), states, added_cond_kwargs=added).sample
            values.append(float((y - x).std()))
    for t, limit in ((850, 0.02), (999, 0.006)):
        check(f"untrained UNet at t = {t}, away from its input", median(apart[t]), limit)


@torch.no_grad()
def check_growth() -> None:
    """A trained UNet without attention at 16 × 16 goes on as it was with it."""
    network = new_unet()
    smaller = UNet2DConditionModel.from_config(
        network.config,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    unet.start_from(network, smaller)
    added = {"text_embeds": torch.randn(1, WIDTH_2), "time_ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]])}
    given = torch.randn(1, 16, 32, 32), torch.tensor(500), torch.randn(1, 77, WIDTH + WIDTH_2)
    apart = network(*given, added_cond_kwargs=added).sample - smaller(*given, added_cond_kwargs=added).sample
    check("UNet with more attention against the one it began as", float(apart.abs().max()), 1e-4)


@torch.no_grad()
def check_vae() -> None:
    """The outer levels enlarge bilinearly; the encoder needs the picture at a quarter alone; scaling changes nothing."""
    network, head = vae.build(), vae.colours()
    outer.set_outer(network, head)
    x = F.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, (256, 256), mode="bilinear")
    z = vae.encode(network, F.avg_pool2d(x, 4))
    whole = network.encode(x).latent_dist.mean
    check("encoder of a quarter against the whole", float((z - whole).abs().max()), 1e-4)
    h = vae.decode_inner(network, z)
    h = h / h.abs().max()
    wanted = enlarge(head(h))
    # The border too, which padding with zeros alone would darken by a quarter at each level.
    check("outer levels against what the stage decoder takes them for, of 2", float((outer.decode_outer(network, h) - wanted).abs().max()), 0.05)
    known = vae.colours()
    outer.read_head(network, known)
    differences = [(a - b).abs().max() for a, b in zip(known.parameters(), head.parameters(), strict=True)]
    check("colours read back", float(max(differences)), 0)
    before = network.decode(z).sample
    mean, divisor = torch.randn(vae.LATENTS), torch.rand(vae.LATENTS) + 0.5
    fold(network, mean, divisor)
    scaled = network.encode(x).latent_dist.mean
    spread = (z - mean[None, :, None, None]) / divisor[None, :, None, None]
    check("latents scaled by the encoder", float((scaled - spread).abs().max()), 1e-4)
    check("pictures from scaled latents", float((network.decode(scaled).sample - before).abs().max()), 1e-3)


def check_run() -> None:
    """A run that was interrupted goes on with the same numbers."""

    def train(file: Path, parts: list[int]) -> torch.Tensor:
        for steps in parts:
            torch.manual_seed(7)
            layer = torch.nn.Linear(4, 4)
            run = Run(file, {"layer": layer}, 1e-2, torch.device("cpu"), 3)
            for _ in run.budget(Time(60), 0):
                run.step(layer(torch.randn(8, 4)).square().mean(), 8)
                if run.steps == steps:
                    run.stop()
        return layer.weight.detach()

    with tempfile.TemporaryDirectory() as folder:
        once, twice = train(Path(folder) / "a.pt", [20]), train(Path(folder) / "b.pt", [11, 20])
    check("interrupted run against a whole one", float((once - twice).abs().max()), 0)


def check_lists() -> None:
    """The tiers are as their rule says, and every colour of a background is recognised."""
    rows = json.loads(LIST.read_text())
    words = [w for row in rows for w in row["words"]]
    order = [(-row["sets"], row["words"][0]) for row in rows]
    check("concepts too many or too few", abs(len(rows) - TIERS[-1]), 0)
    check("words that two concepts share", len(words) - len(set(words)), 0)
    check("concepts out of order", sum(a > b for a, b in zip(order, order[1:], strict=False)), 0)
    plain = {name: backgrounds.pixels(backgrounds.plain(name), 64, 64) * 2 - 1 for name in backgrounds.COLOURS}
    check("background colours taken for others", sum(border_colour(p) != name for name, p in plain.items()), 0)


if __name__ == "__main__":
    torch.manual_seed(0)
    check_lists()
    check_run()
    check_vae()
    check_unet()
    check_growth()
