"""What is on a picture and what its caption says: things, layouts, backgrounds, styles; and the picture itself."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch

import backgrounds
from backgrounds import Background
from concepts import article
from sources import DEFAULT_STYLE
from sprites import scaled

# Centre and side of each thing, as parts of the picture's shorter side from its middle. Every layout is one fixed place:
# a thing that is always drawn in the same place is learnt several times as fast as one that may be anywhere.
LAYOUTS: dict[str, list[tuple[float, float, float]]] = {
    "single": [(0, 0, 0.70)],
    "small": [(0, 0, 0.375)],
    "left": [(-0.24, 0, 0.46)],
    "right": [(0.24, 0, 0.46)],
    "pair": [(-0.24, 0, 0.46), (0.24, 0, 0.46)],
    "stack": [(0, -0.24, 0.46), (0, 0.24, 0.46)],
    "twice": [(-0.24, 0, 0.46), (0.24, 0, 0.46)],
    "three": [(0, -0.23, 0.42), (-0.24, 0.22, 0.42), (0.24, 0.22, 0.42)],
}
# How often each layout is drawn in which mix; the simplest first.
MIXES: dict[str, dict[str, float]] = {
    "single": {"single": 1},
    "mostly-single": {"single": 0.72, "small": 0.05, "left": 0.02, "right": 0.02, "pair": 0.12, "stack": 0.03, "twice": 0.04},
    "all": {"single": 0.5, "small": 0.08, "left": 0.04, "right": 0.04, "pair": 0.2, "stack": 0.05, "twice": 0.05, "three": 0.04},
    "pairs": {"pair": 0.8, "stack": 0.2},
}  # fmt: skip
OPENINGS = ("a picture of ", "an illustration of ", "an icon of ", "a drawing of ")


@dataclass(frozen=True)
class Thing:
    """One icon on a picture."""

    slug: str
    style: str
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn."""

    things: tuple[Thing, ...]
    background: Background
    caption: str
    layout: str
    style: str
    words: tuple[str, ...] = field(default=())


def plural(word: str) -> str:
    """The plural of a concept's word: book → books, glass of milk → glasses of milk."""
    head, _, tail = word.partition(" of ")
    if head.endswith(("s", "x", "ch", "sh")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return f"{head} of {tail}" if tail else head


def subject(layout: str, words: list[str], r: random.Random) -> str:
    """The caption's words for the things and where they are."""
    named = [article(w) for w in words]
    match layout:
        case "single":
            return named[0]
        case "small":
            return article("small " + words[0]) if named[0] != words[0] else "small " + words[0]
        case "left" | "right":
            return f"{named[0]} on the {layout}"
        case "pair":
            return f"{named[0]} {r.choice(('and', 'and', 'and', 'next to', 'with'))} {named[1]}"
        case "stack":
            return f"{named[0]} {r.choice(('above', 'on top of'))} {named[1]}"
        case "twice":
            return f"two {words[0] if named[0] == words[0] else plural(words[0])}"
        case _:
            return f"{named[0]}, {named[1]} and {named[2]}"


def scene(concepts: list[dict], styles: list[str], mix: str, r: random.Random, plain: float | None = None) -> Scene:
    """A random scene. `plain` is the share of backgrounds of one colour; default as backgrounds.py says."""
    layout = r.choices(list(MIXES[mix]), list(MIXES[mix].values()))[0]
    places = LAYOUTS[layout]
    chosen = [r.choice(concepts)] * len(places) if layout == "twice" else r.sample(concepts, len(places))
    words = [c["words"][0] if r.random() < 0.75 else r.choice(c["words"]) for c in chosen]
    if layout == "twice":
        words = [words[0]] * 2
    style = r.choices(styles, [1.5 if s == DEFAULT_STYLE else 1 for s in styles])[0]
    background = backgrounds.draw(r, plain)
    text = (r.choice(OPENINGS) if r.random() < 0.15 else "") + subject(layout, words, r)
    return Scene(
        tuple(Thing(c["slug"], style, *p) for c, p in zip(chosen, places, strict=True)),
        background, caption(text, background.phrase, style, r), layout, style, tuple(words),
    )  # fmt: skip


def caption(what: str, background: str, style: str, r: random.Random) -> str:
    """The whole caption: thing, background, style; the default style is named in every fourth one."""
    text = f"{what} {background}" if background else what
    if style == DEFAULT_STYLE and r.random() > 0.25:
        return text
    return r.choice(
        (f"{text}, {style} style", f"{text}, {style} style", f"{text} in {style} style", f"{style} style, {text}")
    )


def draw(state: Path, s: Scene, width: int, height: int) -> torch.Tensor:
    """The scene's pixels: (3, height, width), 0..1, fp32."""
    picture = backgrounds.pixels(s.background, width, height).clone()
    shorter = min(width, height)
    # Two things side by side stand further apart where there is room, and closer together where there is none.
    stretch_x = min(width / shorter, 1.35)
    stretch_y = min(height / shorter, 1.35)
    for thing in s.things:
        side = round(thing.side * shorter)
        left = round(width / 2 + thing.x * shorter * stretch_x - side / 2)
        top = round(height / 2 + thing.y * shorter * stretch_y - side / 2)
        sprite = scaled(state, thing.style, thing.slug, side)
        place = picture[:, top : top + side, left : left + side]
        place.mul_(1 - sprite[3:].float()).add_(sprite[:3].float())
    return picture.clamp_(0, 1)
