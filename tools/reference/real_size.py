"""A checkpoint of SDXL's true size with random weights, and torch's answer for its UNet.

    python tools/reference/real_size.py write FILE              6.9 GB, fp16, the names of a single file (LDM/SGM)
    python tools/reference/real_size.py forward FILE OUT [EDGE] one UNet forward in fp32 on latents of EDGE x EDGE (64):
                                                                inputs and output → OUT, for `bench/unet.ts --compare OUT`

Weights are scaled so that activations stay near 1: the pictures are noise, but the arithmetic is that of the real model.
"""

import argparse
import gzip
import json
import math
import struct
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from models import ldm_unet_key
from safetensors import safe_open
from safetensors.torch import save_file
from shapes import BASE

ROOT = Path(__file__).resolve().parents[2]
SEED = 1


def values(name, shape, pool, position):
    """fp16 values of one tensor: norms 1, matrices of deviation 1/√(inputs), the rest small."""
    count = math.prod(shape)
    if name.endswith("weight") and len(shape) == 1:
        return np.ones(count, np.float16)
    taken = np.take(pool, np.arange(position, position + count), mode="wrap")
    scale = 0.02 if len(shape) < 2 or "embedding" in name else 1 / math.sqrt(math.prod(shape[1:]))
    return (taken * np.float32(scale)).astype(np.float16)


def write(path):
    shapes = json.loads(gzip.open(ROOT / "test/golden/shapes/base.json.gz").read())["singleFile"]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = dict(dtype="F16", shape=shape, data_offsets=[end, end + size])
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pool = np.random.default_rng(SEED).standard_normal(16 * 1024 * 1024 + 977, dtype=np.float32)
    position = 0
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            file.write(values(name, shape, pool, position).tobytes())
            position = (position + math.prod(shape)) % len(pool)
    print(f"{path}: {len(shapes)} tensors, {end / 1e9:.2f} GB")


@torch.no_grad()
def forward(path, out, edge):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**BASE).eval()
    types = unet.config.up_block_types
    with_attention = {index for index, name in enumerate(types) if name.startswith("CrossAttn")}
    with safe_open(path, "pt") as file:
        names = {key: f"model.diffusion_model.{ldm_unet_key(key, 2, with_attention)}" for key in unet.state_dict()}
        unet.load_state_dict({key: file.get_tensor(name).float() for key, name in names.items()}, assign=True)
    generator = torch.Generator("cpu").manual_seed(SEED)
    randn = lambda *shape: torch.randn(shape, generator=generator)
    inputs = dict(
        sample=randn(1, 4, edge, edge),
        encoder_hidden_states=randn(1, 77, 2048),
        text_embeds=randn(1, 1280),
        time_ids=torch.tensor([[edge * 8.0, edge * 8.0, 0, 0, edge * 8.0, edge * 8.0]]),
        timestep=torch.tensor([601.0]),
    )
    start = time.perf_counter()
    output = unet(
        inputs["sample"],
        inputs["timestep"],
        inputs["encoder_hidden_states"],
        added_cond_kwargs=dict(text_embeds=inputs["text_embeds"], time_ids=inputs["time_ids"]),
    ).sample
    print(f"torch {torch.__version__}: {time.perf_counter() - start:.1f} s a forward, output deviation {output.std():.3f}")
    save_file({**inputs, "noise_pred": output.contiguous()}, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "forward"])
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("edge", type=int, nargs="?", default=64)
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(arguments.file)
    else:
        forward(arguments.file, arguments.out, arguments.edge)


main()
