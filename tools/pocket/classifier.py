"""The judge of evaluate.py: a small network that names the thing and the style on a picture. It sees real renders alone."""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import backgrounds
from scenes import Scene, Thing, draw
from sources import STYLES

SIDE = 64
# The part of a crop that the thing fills.
FILLED = 0.8
HELD_OUT = 400
STEPS = 2000


class Classifier(nn.Module):
    """Pictures (B, 3, 64, 64) in -1..1 → scores of the concepts, and of all styles."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 192)
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, 2, 1, bias=False),
                    nn.BatchNorm2d(b),
                    nn.ReLU(),
                    nn.Conv2d(b, b, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(b),
                    nn.ReLU(),
                )
                for a, b in zip(widths, widths[1:], strict=False)
            )
        )
        self.concept = nn.Linear(widths[-1] * 16, concepts)
        self.style = nn.Linear(widths[-1] * 16, len(STYLES))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, concepts) and (B, styles)."""
        h = self.body(x).flatten(1)
        return self.concept(h), self.style(h)


def crop(picture: torch.Tensor, place: tuple[float, float, float]) -> torch.Tensor:
    """The part of a picture (3, H, W) round a place of scenes.py, as 64 × 64; the picture's edge goes on beyond it."""
    _, height, width = picture.shape
    shorter = min(height, width)
    half = round(place[2] * shorter / FILLED / 2)
    x, y = round(width / 2 + place[0] * shorter), round(height / 2 + place[1] * shorter)
    padded = F.pad(picture, (half,) * 4, mode="replicate")
    part = padded[:, y : y + 2 * half, x : x + 2 * half]
    return F.interpolate(part[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]


def example(state: Path, concepts: list[dict], styles: list[str], r: random.Random) -> tuple[torch.Tensor, int, int]:
    """A real render, its concept and style: any background, a slightly other place and size, often a neighbour beside it."""
    index, style = r.randrange(len(concepts)), r.choice(styles)
    side = r.uniform(0.72, 0.86)
    x, y = r.uniform(-0.05, 0.05), r.uniform(-0.05, 0.05)
    things = [Thing(concepts[index]["slug"], style, x, y, side)]
    if r.random() < 0.3:
        other = r.choice(concepts)["slug"]
        things.append(Thing(other, style, x + r.choice((-1, 1)) * side * 1.04, y, side))
    # Drawn on a canvas three times as wide, so that a neighbour may reach over the edge.
    canvas = Scene(
        tuple(Thing(t.slug, t.style, t.x / 1.35, t.y, t.side) for t in things),
        backgrounds.draw(r, 0.8),
        "",
        "single",
        style,
    )
    picture = draw(state, canvas, 3 * 96, 96)[:, :, 96:192] * 2 - 1
    part = F.interpolate(picture[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    return part, index, list(STYLES).index(style)


def examples(
    state: Path, concepts: list[dict], styles: list[str], r: random.Random, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Many examples."""
    pictures, indices, kinds = zip(*(example(state, concepts, styles, r) for _ in range(count)), strict=True)
    return torch.stack(pictures), torch.tensor(indices), torch.tensor(kinds)


def load(state: Path, concepts: list[dict], styles: list[str], device: torch.device) -> tuple[Classifier, float, float]:
    """The trained classifier and its accuracies on held-out renders; trained here if that has not been done."""
    file = state / f"classifier-{len(concepts)}-{'+'.join(styles)}.pt"
    held = [t.to(device) for t in examples(state, concepts, styles, random.Random("held out"), HELD_OUT)]
    network = Classifier(len(concepts)).to(device)
    if file.exists():
        network.load_state_dict(torch.load(file, map_location=device, weights_only=True))
        return network.eval(), *accuracies(network, held)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    r = random.Random("training")
    good = (0.0, 0.0)
    for step in range(STEPS):
        pictures, indices, kinds = (t.to(device) for t in examples(state, concepts, styles, r, 64))
        # What a decoder does to a picture must not disturb the judge: less contrast, blur, noise.
        if r.random() < 0.5:
            pictures = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
        pictures = pictures * r.uniform(0.8, 1.1) + torch.randn_like(pictures) * r.uniform(0, 0.15)
        scores, style_scores = network.train()(pictures.clamp(-1, 1))
        loss = F.cross_entropy(scores, indices) + F.cross_entropy(style_scores, kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % 100 == 99:
            good = accuracies(network, held)
            print(f"classifier, step {step + 1}: {good[0]:.1%}, style {good[1]:.1%}", flush=True)
            if min(good) >= 0.98:
                break
    torch.save(network.state_dict(), file)
    return network.eval(), *good


@torch.no_grad()
def accuracies(network: Classifier, held: list[torch.Tensor]) -> tuple[float, float]:
    """The parts of held-out renders whose concept and whose style are recognised."""
    scores, style_scores = network.eval()(held[0])
    return tuple(
        (s.argmax(1) == wanted).float().mean().item() for s, wanted in ((scores, held[1]), (style_scores, held[2]))
    )


@torch.no_grad()
def ranked(network: Classifier, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Concepts and styles of each picture, the likeliest first."""
    device = next(network.parameters()).device
    return tuple(s.argsort(1, descending=True).cpu() for s in network(pictures.to(device)))
