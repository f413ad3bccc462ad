"""Make the tiny model of the service's tests: `python tools/reference/wide_model.py` → test/golden/wide-model/.

tiny-wide      diffusers folder, fp32: tiny-a with a VAE of factor 32 and few channels, so that the sizes that the HTTP API
               takes, all near 1024×1024, are made in a moment

Weights are random, from a fixed seed, scaled as models.py does it.
"""

import shutil
import sys
from pathlib import Path

import diffusers
import safetensors
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))
from models import TINY_A, build, save

OUT = Path(__file__).resolve().parents[2] / "test/golden/wide-model"
BLOCKS = 6
TINY_WIDE = TINY_A | dict(
    seed=21,
    vae=TINY_A["vae"]
    | dict(
        block_out_channels=(4, 4, 8, 8, 8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * BLOCKS,
        up_block_types=("UpDecoderBlock2D",) * BLOCKS,
        norm_num_groups=4,
        sample_size=1024,
    ),
)


def main():
    if OUT.exists():
        shutil.rmtree(OUT)
    save(build(TINY_WIDE), OUT / "tiny-wide")
    (OUT / "PROVENANCE.md").write_text(
        "# Provenance\n\n"
        "Made by `python tools/reference/wide_model.py` (seed 21, torch's CPU generator) with"
        f" torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__},"
        f" transformers {transformers.__version__}, safetensors {safetensors.__version__}.\n\n"
        "Random weights; vocabulary and sizes are those of tiny-a (test/golden/models), but for the VAE.\n"
    )


if __name__ == "__main__":
    main()
