"""Write the trained model as a folder of diffusers: python tools/pocket/export.py --state FOLDER --out FOLDER [--tier 64].

fp16 safetensors with the averaged weights. The scaling of the latents becomes part of the autoencoder's 1 × 1 layers, so
that its scaling factor is 1. Also writes concepts.json, the list of `sepia concepts`.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline

import vae as autoencoder
from backgrounds import COLOURS, PLACES
from concepts import tier
from latents import scales
from networks import SCHEDULE, tokenizers
from sources import STYLES
from text import load_encoders
from unet import load_unet

LARGEST_BYTES = 48_000_000


@torch.no_grad()
def fold(vae: AutoencoderKL, mean: torch.Tensor, divisor: torch.Tensor) -> None:
    """Let the encoder give scaled latents, and the decoder take them."""
    count = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:count] /= divisor[:, None, None, None]
    quant.bias[:count] = (quant.bias[:count] - mean) / divisor
    # The variances: as good as none, for every picture.
    quant.weight[count:] = 0
    quant.bias[count:] = 2 * math.log(0.01)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= divisor[None, :, None, None]


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tier", type=int, default=64)
    parser.add_argument("--styles", default="cartoon,flat")
    args = parser.parse_args()
    styles = args.styles.split(",")
    if unknown := set(styles) - set(STYLES):
        raise SystemExit(f"--styles must be of {list(STYLES)}, got {sorted(unknown)}")

    vae = autoencoder.load(args.state)
    fold(vae, *scales(args.state))
    unet, (steps, samples, minutes, processor_minutes) = load_unet(args.state)
    first, second = load_encoders(args.state)
    pipeline = StableDiffusionXLPipeline(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=tokenizers(args.state)[0],
        tokenizer_2=tokenizers(args.state)[1], unet=unet, scheduler=DDIMScheduler(**SCHEDULE),
        force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip
    pipeline.to(torch.float16)
    pipeline.save_pretrained(args.out, safe_serialization=True)
    rows = ",\n".join(
        f"    {json.dumps({'name': c['words'][0], 'also': c['words'][1:]})}"
        for c in sorted(tier(args.tier), key=lambda c: c["words"][0])
    )
    (args.out / "concepts.json").write_text(
        f'{{\n  "concepts": [\n{rows}\n  ],\n  "styles": {json.dumps(styles)},\n  "colours": {json.dumps(list(COLOURS))},\n'
        f'  "places": {json.dumps([phrases[0] for phrases, _ in PLACES.values()])}\n}}\n'
    )
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(
        f"{args.out}: {size / 1e6:.1f} MB, after {steps} steps, {samples} samples, {minutes:.1f} minutes, {processor_minutes:.1f} of the processor"
    )
    if size > LARGEST_BYTES:
        raise SystemExit(f"the model has {size} bytes, more than {LARGEST_BYTES}")


if __name__ == "__main__":
    main()
