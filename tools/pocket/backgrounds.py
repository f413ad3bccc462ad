"""What is behind the things: one colour, two colours that run into each other, or one of eight places."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from concepts import article

COLOURS: dict[str, str] = {
    "white": "#ffffff", "black": "#141414", "gray": "#909090", "red": "#d92b2b", "orange": "#f28a1e", "yellow": "#f7d33a",
    "green": "#3aa54a", "dark green": "#14532d", "light green": "#b9e8b0", "turquoise": "#3fd0cf", "blue": "#2b62d9",
    "light blue": "#abd7f5", "dark blue": "#14245f", "purple": "#7a35b8", "pink": "#f48fb8", "brown": "#7b4a2a", "beige": "#ecdfc4",
}  # fmt: skip


@dataclass(frozen=True)
class Background:
    """A background: its kind (plain, gradient or place), its colours or the place's name, and its words in a caption."""

    kind: str
    names: tuple[str, ...]
    phrase: str


def rgb(name: str) -> torch.Tensor:
    """A colour's red, green and blue, 0..1."""
    text = COLOURS.get(name, name)
    return torch.tensor([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def mixed(a: torch.Tensor, b: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """From colour a to colour b: (H, W) → (3, H, W)."""
    return torch.lerp(a[:, None, None], b[:, None, None], amount.clamp(0, 1)[None])


def sky(top: str, bottom: str) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """A picture that runs from one colour at the top to another one at the bottom."""
    return lambda x, y, soft: mixed(rgb(top), rgb(bottom), y)


def ground(picture: torch.Tensor, colour: str, height: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    """Fill everything below a line with a colour; its edge is one pixel soft."""
    return torch.lerp(picture, rgb(colour)[:, None, None], (((y - height) / soft) + 0.5).clamp(0, 1)[None])


def disc(
    picture: torch.Tensor, colour: str, x: torch.Tensor, y: torch.Tensor, at: tuple[float, float, float], soft: float
) -> torch.Tensor:
    """Draw a disc (centre x, centre y, radius) with a soft edge."""
    distance = ((x - at[0]) ** 2 + (y - at[1]) ** 2).sqrt()
    return torch.lerp(picture, rgb(colour)[:, None, None], (((at[2] - distance) / soft) + 0.5).clamp(0, 1)[None])


def dots(
    picture: torch.Tensor, x: torch.Tensor, y: torch.Tensor, soft: float, count: int, seed: int, low: float = 1.0
) -> torch.Tensor:
    """Sprinkle white dots, the same ones for the same seed."""
    r = random.Random(seed)
    for _ in range(count):
        picture = disc(
            picture, "#ffffff", x, y, (r.random() * 1.6 - 0.8, r.random() * low, 0.004 + 0.006 * r.random()), soft
        )
    return picture


def hills(x: torch.Tensor, level: float, size: float, phase: float) -> torch.Tensor:
    """A line of gentle hills."""
    return level + size * torch.sin(5 * x + phase)


# Each place: its phrases, and (x from the middle in heights, y from 0 at the top to 1, width of a pixel) → (3, H, W).
def meadow(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    p = ground(sky("#7cc4f2", "#d9f1ff")(x, y, soft), "#7cc653", hills(x, 0.6, 0.03, 0.5), y, soft)
    return ground(p, "#5aa83c", hills(x, 0.76, 0.03, 2.5), y, soft)


def beach(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    p = ground(sky("#8fd3f7", "#e3f6ff")(x, y, soft), "#2f9fd0", torch.full_like(x, 0.45), y, soft)
    return ground(p, "#f2d79b", hills(x, 0.68, 0.02, 1.5), y, soft)


def night(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    return dots(sky("#0b1033", "#2b3a78")(x, y, soft), x, y, soft, 40, 7)


def space(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    glow = ((x - 0.2) ** 2 + (y - 0.3) ** 2).sqrt() / 0.9
    return dots(mixed(rgb("#3d1f66"), rgb("#05050f"), glow), x, y, soft, 50, 11)


def snow(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    p = ground(sky("#a9c6e3", "#e6f0fa")(x, y, soft), "#ffffff", hills(x, 0.62, 0.03, 2), y, soft)
    return dots(p, x, y, soft, 30, 5, 0.6)


def desert(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    p = ground(sky("#f7b267", "#fde3b5")(x, y, soft), "#e0a458", hills(x, 0.6, 0.05, 1), y, soft)
    return ground(p, "#cf8f45", hills(x, 0.78, 0.04, 4), y, soft)


def water(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    return ground(sky("#3fc0e0", "#0b4a86")(x, y, soft), "#d8c08a", hills(x, 0.88, 0.02, 0), y, soft)


def sunset(x: torch.Tensor, y: torch.Tensor, soft: float) -> torch.Tensor:
    p = disc(sky("#5b3a8c", "#ff9a5a")(x, y, soft), "#ffd97a", x, y, (0.0, 0.74, 0.17), soft)
    return ground(p, "#3a2a5e", torch.full_like(x, 0.76), y, soft)


PLACES: dict[str, tuple[tuple[str, ...], Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]]] = {
    "meadow": (("on a green meadow", "in a meadow", "on the grass"), meadow),
    "beach": (("on the beach", "at the beach"), beach),
    "night": (("at night", "under the stars"), night),
    "space": (("in space", "in outer space"), space),
    "snow": (("in the snow", "in winter"), snow),
    "desert": (("in the desert",), desert),
    "water": (("under water", "in the sea"), water),
    "sunset": (("at sunset",), sunset),
}


def plain(name: str, r: random.Random | None = None) -> Background:
    """One colour, in the words that a seeded choice gives, or the usual ones."""
    named = article(name)
    phrases = (f"on {named} background",) * 4 + (f"on {name}", f"with {named} background")
    return Background("plain", (name,), r.choice(phrases) if r else phrases[0])


def draw(r: random.Random, share_plain: float | None = None) -> Background:
    """A random background: white without a word in every fourth picture, else mostly one colour."""
    u = r.random()
    if u < 0.25:
        return Background("plain", ("white",), "")
    if u < 0.25 + 0.75 * (0.6 if share_plain is None else share_plain):
        return plain(r.choice(list(COLOURS)), r)
    if r.random() < 0.25:
        a, b = r.sample(list(COLOURS), 2)
        return Background(
            "gradient", (a, b), r.choice((f"on {article(a)} to {b} gradient", f"on a gradient from {a} to {b}"))
        )
    place = r.choice(list(PLACES))
    return Background("place", (place,), r.choice(PLACES[place][0]))


@lru_cache(maxsize=64)
def pixels(background: Background, width: int, height: int) -> torch.Tensor:
    """The background's pixels: (3, height, width), 0..1. The caller must not change them."""
    if background.kind == "plain":
        return rgb(background.names[0])[:, None, None].expand(3, height, width).contiguous()
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    x = ((torch.arange(width) + 0.5 - width / 2) / height)[None].expand(height, width)
    if background.kind == "gradient":
        return mixed(rgb(background.names[0]), rgb(background.names[1]), y).contiguous()
    return PLACES[background.names[0]][1](x, y, 1 / height).contiguous()
