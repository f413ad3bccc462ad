"""Icons as pixels: every concept in every style once as PNG of 1024 × 1024 with alpha."""

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import resvg_py
import torch
import torch.nn.functional as F
from PIL import Image

from sources import STYLES, svg

SIDE = 1024


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


@lru_cache(maxsize=700)
def pyramid(state: Path, style: str, slug: str, top: int) -> torch.Tensor:
    """A sprite of top × top pixels, its colours multiplied by alpha: (4, top, top) in 0..1, fp16."""
    target = path_of(state, style, slug)
    small = target.with_suffix(f".{top}.npy")
    if small.exists():
        return torch.from_numpy(np.load(small))
    if not target.exists():
        raise SystemExit(f"{target} is missing: run the stage render first")
    with Image.open(target) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGBA"))).permute(2, 0, 1).float() / 255
    pixels[:3] *= pixels[3:]
    if top == SIDE:
        return pixels.half()
    pixels = F.avg_pool2d(pixels, SIDE // top).half()
    np.save(small, pixels.numpy())
    return pixels


@lru_cache(maxsize=12000)
def scaled(state: Path, style: str, slug: str, side: int) -> torch.Tensor:
    """A sprite scaled to side × side pixels: (4, side, side), premultiplied, fp16."""
    top = 256 if side <= 256 else SIDE
    pixels = pyramid(state, style, slug, top).float()[None]
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1).half()
