"""Icons as pixels: every concept in every style once as PNG of 1024 × 1024 with alpha."""

import io
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import resvg_py
import torch
import torch.nn.functional as F
from PIL import Image

from sources import STYLES, svg

SIDE = 1024
# Sprites for pictures at a quarter of the size are kept at this size.
SMALL = 256


def path_of(state: Path, style: str, slug: str) -> Path:
    """Where a sprite lies."""
    return state / "sprites" / style / f"{slug}.png"


def render(state: Path, slugs: list[str], styles: list[str]) -> None:
    """Render what is not there yet. resvg must not look for the machine's fonts: a picture would depend on them."""
    made = 0
    for style in styles:
        for slug in slugs:
            target = path_of(state, style, slug)
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            document = svg(state, STYLES[style], slug, SIDE)
            data = bytes(resvg_py.svg_to_bytes(svg_string=document, skip_system_fonts=True))
            with Image.open(io.BytesIO(data)) as picture:
                if picture.size != (SIDE, SIDE) or np.asarray(picture.convert("RGBA"))[..., 3].max() < 200:
                    raise SystemExit(f"{style}/{slug} came out as {picture.size}, or empty")
            target.write_bytes(data)
            made += 1
    print(f"{made} sprites rendered, {len(slugs) * len(styles)} in all")


def pyramid(state: Path, style: str, slug: str, top: int) -> torch.Tensor:
    """A sprite of top × top pixels, its colours multiplied by alpha: (4, top, top) in 0..1, fp16."""
    target = path_of(state, style, slug)
    kept = target.with_suffix(f".{top}.npy")
    if kept.exists():
        return torch.from_numpy(np.load(kept))
    if not target.exists():
        raise SystemExit(f"{target} is missing: run the stage render first")
    with Image.open(target) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGBA"))).permute(2, 0, 1).float() / 255
    pixels[:3] *= pixels[3:]
    if top == SIDE:
        return pixels.half()
    pixels = F.avg_pool2d(pixels, SIDE // top).half()
    scratch = kept.with_suffix(f".{os.getpid()}.npy")
    np.save(scratch, pixels.numpy())
    os.replace(scratch, kept)
    return pixels


def scaled(state: Path, style: str, slug: str, side: int) -> torch.Tensor:
    """A sprite scaled to side × side pixels: (4, side, side), premultiplied, fp16."""
    return small(state, style, slug, side) if side <= SMALL else resized(pyramid(state, style, slug, SIDE), side)


@lru_cache(maxsize=6000)
def small(state: Path, style: str, slug: str, side: int) -> torch.Tensor:
    """A scaled sprite from memory; large ones would not fit there."""
    return resized(pyramid(state, style, slug, SMALL), side)


def resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Premultiplied pixels (4, H, W) scaled to side × side."""
    return F.interpolate(pixels.float()[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1).half()
