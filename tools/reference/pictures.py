"""Make the fixtures of the pictures: `python tools/reference/pictures.py` → test/golden/pictures/.

pixels.safetensors  decoded: (3, 8, 96) fp32, random values and every edge that rounding and clipping have;
                    rgb: (8, 96, 3) int64, what diffusers' VaeImageProcessor and numpy_to_pil make of it
text.png            a PNG of one pixel with tEXt, iTXt and zTXt chunks written by Pillow
"""

from pathlib import Path

import diffusers
import numpy as np
import PIL
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "test/golden/pictures"
SEED = 5


def decoded_values() -> torch.Tensor:
    """Values whose pixel is an exact half, their neighbours in fp32, the ends of the range and beyond, and noise."""
    halves = torch.tensor([(k + 0.5) / 255 * 2 - 1 for k in range(255)], dtype=torch.float64).float()
    up = torch.nextafter(halves, torch.full_like(halves, 9.0))
    down = torch.nextafter(halves, torch.full_like(halves, -9.0))
    whole = torch.tensor([k / 255 * 2 - 1 for k in range(256)], dtype=torch.float64).float()
    edges = torch.tensor([-1.0, 1.0, -1.0000001, 1.0000001, -0.0, 0.0, 1e-8, -1e-8, 3.0, -3.0, 1e30, -1e30])
    edges = torch.cat([edges, torch.tensor([float("inf"), float("-inf"), 1e-45])])
    values = torch.cat([halves, up, down, whole, edges])
    noise = torch.randn(3 * 8 * 96 - len(values), generator=torch.Generator("cpu").manual_seed(SEED)) * 0.6
    return torch.cat([values, noise]).reshape(3, 8, 96)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    decoded = decoded_values()
    picture = VaeImageProcessor().postprocess(decoded[None], output_type="pil")[0]
    rgb = torch.from_numpy(np.asarray(picture).astype(np.int64))
    save_file({"decoded": decoded.contiguous(), "rgb": rgb.contiguous()}, OUT / "pixels.safetensors")

    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "a caf\u00e9, (red:1.2)\nsecond line")
    text.add_itxt("negative", "\u732b \U0001f408 \u0130", lang="ja", tkey="\u5426\u5b9a")
    text.add_text("packed", "not read " * 20, zip=True)
    text.add_text("empty", "")
    Image.new("RGB", (1, 1), (1, 2, 3)).save(OUT / "text.png", pnginfo=text)
    versions = f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, pillow {PIL.__version__}"
    (OUT / "PROVENANCE.md").write_text(
        "# Provenance\n\n"
        f"Made by `python tools/reference/pictures.py` with {versions}, numpy {np.__version__}; seed {SEED}.\n"
    )


if __name__ == "__main__":
    main()
