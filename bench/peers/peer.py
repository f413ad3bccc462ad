"""One measurement of a peer in a process of its own: seconds to load, and of each run, as one line of JSON.

    python peer.py convert PART FOLDER [--tiny]          the UNet or VAE as OpenVINO's converter makes it from torch
    python peer.py quantize PART FOLDER [--tiny]         the same with 8-bit weights and activations, by NNCF
    python peer.py run ENGINE PRECISION PART SIZE FOLDER [--runs 2] [--turns] [--threads 2] [--tiny]

ENGINE: torch (diffusers, weights channels_last) or openvino. PART: unet or vae. Weights are random and scaled so that
activations stay near 1; the arithmetic is that of the real model, whatever they are. With --turns it tells "ready", runs
once for every line of its input until that ends, and tells "done" after each.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/reference"))
from shapes import BASE, VAE  # noqa: E402

TINY_UNET = {**BASE, "block_out_channels": (32, 64, 64), "transformer_layers_per_block": (1, 1, 1), "attention_head_dim": 4}
TINY_VAE = {**VAE, "block_out_channels": (32, 32, 32, 32)}


@torch.no_grad()
def build(part, dtype, tiny):
    """The network without reading a file: every parameter is a piece of one pool of normal numbers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        if part == "unet":
            model = UNet2DConditionModel(**(TINY_UNET if tiny else BASE))
        else:
            model = AutoencoderKL(**(TINY_VAE if tiny else VAE))
    model = model.to(dtype).to_empty(device="cpu").eval()
    # Each parameter begins elsewhere in the pool: equal ones would be stored, packed and cached once.
    pool = torch.randn((1 << 24) + 977, generator=torch.Generator().manual_seed(1)).to(dtype)
    position = 0
    for name, value in model.named_parameters():
        flat = value.view(-1)
        if value.dim() == 1:
            flat.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        scale = 1 / math.sqrt(value[0].numel())
        done = 0
        while done < flat.numel():
            count = min(flat.numel() - done, len(pool) - position)
            torch.mul(pool[position : position + count], scale, out=flat[done : done + count])
            done, position = done + count, (position + count) % len(pool)
    return model


class Network(torch.nn.Module):
    """The network with plain tensors in and out."""

    def __init__(self, part, model):
        super().__init__()
        self.part, self.model = part, model

    def forward(self, *inputs):
        if self.part == "vae":
            return self.model.decode(inputs[0], return_dict=False)[0]
        sample, timestep, text, pooled, time_ids = inputs
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return self.model(sample, timestep, text, added_cond_kwargs=added, return_dict=False)[0]


def inputs_of(part, size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    edge = size // 8
    randn = lambda *shape: torch.randn(shape, generator=generator).to(dtype)
    if part == "vae":
        return [randn(1, 4, edge, edge)]
    ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=dtype)
    return [randn(1, 4, edge, edge), torch.tensor([601.0], dtype=dtype), randn(1, 77, 2048), randn(1, 1280), ids]


def convert(part, folder, tiny):
    import openvino

    example = inputs_of(part, 256)
    with torch.no_grad():
        model = openvino.convert_model(Network(part, build(part, torch.float32, tiny)), example_input=example)
    openvino.save_model(model, folder / f"{part}.xml", compress_to_fp16=True)


def quantize(part, folder, tiny):
    import nncf
    import openvino

    model = openvino.Core().read_model(folder / f"{part}.xml")
    data = nncf.Dataset([[value.numpy() for value in inputs_of(part, 256)]])
    options = dict(model_type=nncf.ModelType.TRANSFORMER, subset_size=1, fast_bias_correction=True)
    # Smoothing changes no shape, adds a multiplication before a linear, and needs more than 24 GB at SDXL's size.
    smooth = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True, smooth_quant_alphas=smooth)
    quantized = nncf.quantize(model, data, **options, advanced_parameters=advanced)
    openvino.save_model(quantized, folder / f"{part}-int8.xml", compress_to_fp16=True)


def load_torch(part, precision, size, tiny):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    network = Network(part, build(part, dtype, tiny).to(memory_format=torch.channels_last)).eval()
    inputs = inputs_of(part, size, dtype)
    inputs[0] = inputs[0].to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            return network(*inputs).float().numpy()

    return run


def load_openvino(part, precision, size, folder, threads):
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / (f"{part}-int8.xml" if precision == "int8" else f"{part}.xml"))
    inputs = [value.numpy() for value in inputs_of(part, size)]
    model.reshape({port: list(value.shape) for port, value in zip(model.inputs, inputs, strict=True)})
    hint = "f32" if precision == "fp32" else "bf16"
    properties = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", properties).create_infer_request()
    return lambda: request.infer(inputs)[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["convert", "quantize", "run"])
    parser.add_argument("rest", nargs="+")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--turns", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.command != "run":
        part, folder = args.rest
        Path(folder).mkdir(parents=True, exist_ok=True)
        {"convert": convert, "quantize": quantize}[args.command](part, Path(folder), args.tiny)
        return
    engine, precision, part, size, folder = args.rest
    start = time.perf_counter()
    if engine == "torch":
        run = load_torch(part, precision, int(size), args.tiny)
    else:
        run = load_openvino(part, precision, int(size), Path(folder), args.threads)
    loaded = time.perf_counter() - start
    seconds = []
    if args.turns:
        print("ready", flush=True)
    for _ in sys.stdin if args.turns else range(args.runs):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
        assert np.isfinite(result).all(), "a result is not finite"
        if args.turns:
            print("done", flush=True)
    print(json.dumps({"loadSeconds": loaded, "seconds": seconds}))


main()
