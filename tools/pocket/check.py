"""Does diffusers draw the same pictures as Sepia? python tools/pocket/check.py --model FOLDER [--limit 0.3].

Loads the folder as it is with StableDiffusionXLPipeline, draws three sizes, and compares each picture with that of
`sepia generate` for the same prompt and seed: the mean difference of the 8-bit values must not be above the limit.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
# Of the nine sizes: the square, one whose latents three halvings do not divide, and a small one.
CASES = (
    ("a cat on a light blue background", 1024, 1024, 7),
    ("a car", 1216, 832, 8),
    ("a bell, flat style", 512, 512, 9),
)
STEPS, SCALE = 10, 12.0


def main() -> None:
    """Read the command line, draw and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline = StableDiffusionXLPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for prompt, width, height, seed in CASES:
            picture = pipeline(
                prompt,
                width=width,
                height=height,
                num_inference_steps=STEPS,
                guidance_scale=SCALE,
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images[0]
            theirs = np.asarray(picture).astype(int)
            target = Path(scratch) / "own.png"
            options = {
                "--model": args.model.resolve(),
                "--width": width,
                "--height": height,
                "--steps": STEPS,
                "--cfg": SCALE,
                "--seed": seed,
                "--sampler": "DDIM",
                "--threads": args.threads,
                "--cache": scratch,
                "-o": target,
            }
            words = [str(word) for pair in options.items() for word in pair]
            subprocess.run([ROOT / "bin/sepia.js", "generate", prompt, *words], check=True, stdout=subprocess.DEVNULL)
            with Image.open(target) as own:
                difference = np.abs(np.asarray(own.convert("RGB")).astype(int) - theirs)
            print(f"{prompt!r} {width} × {height}: mean {difference.mean():.4f}, largest {difference.max()} of 255")
            worst = max(worst, float(difference.mean()))
    if worst > args.limit:
        raise SystemExit(f"the pictures differ by {worst:.3f} of 255, more than {args.limit}")


if __name__ == "__main__":
    main()
