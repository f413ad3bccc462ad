"""Both text encoders, trained before the UNet: they learn to predict a picture's latents at half the size from its caption.

Without this a UNet ignores the caption for its first thousands of steps, because SDXL's schedule leaves a trace of the
picture in the noisiest input, and that is easier to read. The encoders are not changed afterwards, so that the UNet's
training reads each caption's features from memory.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from latents import load
from networks import WIDTH, WIDTH_2, conditions, text_encoders, tokenizers
from run import Run, Time, averaged
from vae import LATENTS, home

HELD_OUT = 200


class Drawer(nn.Module):
    """Text features → latents: 64 learned places look at the tokens, each draws 2 × 2 of 16 × 16."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(64, width) * 0.5)
        self.into = nn.Linear(WIDTH + WIDTH_2, width)
        self.looks = nn.ModuleList(nn.MultiheadAttention(width, 6, batch_first=True) for _ in range(2))
        self.thinks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.out = nn.Linear(width, 4 * LATENTS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 77, 320) → (B, 16, 16, 16)."""
        keys = self.into(features)
        x = self.places[None].expand(len(features), -1, -1)
        for look, think, norm in zip(self.looks, self.thinks, self.norms[:2], strict=True):
            # Asking for the weights keeps the fused attention away, which is slow backwards on a CPU.
            x = x + look(norm(x), keys, keys, need_weights=True)[0]
            x = x + think(x)
        x = self.out(self.norms[2](x)).transpose(1, 2).reshape(-1, 4 * LATENTS, 8, 8)
        return F.pixel_shuffle(x, 2)


def pooled_drawer() -> nn.Sequential:
    """The pooled feature → latents of 8 × 8."""
    return nn.Sequential(
        nn.Linear(WIDTH_2, 512), nn.GELU(), nn.Linear(512, LATENTS * 64), nn.Unflatten(1, (LATENTS, 8, 8))
    )


def load_encoders(state: Path) -> tuple[nn.Module, nn.Module]:
    """The trained text encoders."""
    first, second = text_encoders(len(tokenizers(state)[0]))
    averaged(home(state) / "text.pt", {"first": first, "second": second, "drawer": Drawer(), "pooled": pooled_drawer()})
    return first.eval(), second.eval()


def train(state: Path, time_allowed: Time, device: torch.device, seed: int, start: Path | None, batch: int) -> None:
    """The stage text."""
    torch.manual_seed(seed)
    z, ids = load(state, "1024x1024-*")[(1024, 1024)]
    first, second = text_encoders(len(tokenizers(state)[0]))
    if start and not (home(state) / "text.pt").exists():
        for encoder, name in ((first, "text_encoder"), (second, "text_encoder_2")):
            encoder.load_state_dict(type(encoder).from_pretrained(start / name, dtype=torch.float32).state_dict())
    for encoder in (first, second):
        encoder.set_attn_implementation("eager")
    modules = {"first": first, "second": second, "drawer": Drawer(), "pooled": pooled_drawer()}
    for module in modules.values():
        module.to(device)
    run = Run(home(state) / "text.pt", modules, 1.5e-3, device, seed, 0.995)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(5))
    held, known = order[:HELD_OUT], order[HELD_OUT:]
    fine, coarse = F.avg_pool2d(z.float(), 2), F.avg_pool2d(z.float(), 4)

    def errors(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            features, vector = conditions(first, second, ids[rows].to(device))
            drawn, drawn_pooled = modules["drawer"](features), modules["pooled"](vector)
        return F.mse_loss(drawn.float(), fine[rows].to(device)), F.mse_loss(
            drawn_pooled.float(), coarse[rows].to(device)
        )

    for _ in run.budget(time_allowed, 0.5):
        a, b = errors(known[torch.randint(len(known), (batch,))])
        run.step(a + b, batch, states=a.detach(), pooled=b.detach())
        if run.steps % 100 == 0:
            with torch.no_grad():
                a, b = errors(held)
            print(
                f"held out: states {a:.4f} of {fine[held].var():.4f}, pooled {b:.4f} of {coarse[held].var():.4f}",
                flush=True,
            )
