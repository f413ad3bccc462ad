"""Names and shapes of the real Stable Diffusion XL models: `python tools/reference/shapes.py` → test/golden/shapes/.

One compressed JSON a model (base, refiner, ssd-1b): diffusers' UNet config, every tensor of every component under
diffusers' keys, and every tensor of the single file. The networks are built on torch's meta device: no weights.
"""

import gzip
import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from models import ldm_unet_key, ldm_vae, openclip, with_prefix
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

OUT = Path(__file__).resolve().parents[2] / "test/golden/shapes"

BASE = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    layers_per_block=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
    use_linear_projection=True,
)
REFINER = {
    **BASE,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
# The pruned network of Segmind's SSD-1B: other depths on the way up, and one resnet for a middle.
SSD_1B = {
    **BASE,
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "mid_block_type": "UNetMidBlock2D",
}
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    scaling_factor=0.13025,
)
TEXT = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
TEXT_2 = CLIPTextConfig(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
)


def shapes(state):
    return {key: list(value.shape) for key, value in state.items()}


def describe(config, refiner=False):
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**config), AutoencoderKL(**VAE)
        text, text_2 = CLIPTextModel(TEXT), CLIPTextModelWithProjection(TEXT_2)
    components = dict(unet=unet.state_dict(), vae=vae.state_dict(), textEncoder2=text_2.state_dict())
    if not refiner:
        components["textEncoder"] = with_prefix(text.state_dict())
    layers, types = config["layers_per_block"], config["up_block_types"]
    with_attention = {index for index, name in enumerate(types) if name.startswith("CrossAttn")}
    ldm = {}
    for key, value in components["unet"].items():
        ldm[f"model.diffusion_model.{ldm_unet_key(key, layers, with_attention)}"] = list(value.shape)
    for key, value in components["vae"].items():
        name, value = ldm_vae(key, value, len(VAE["block_out_channels"]) - 1)
        ldm[f"first_stage_model.{name}"] = list(value.shape)
    for key, value in components.get("textEncoder", {}).items():
        ldm[f"conditioner.embedders.0.transformer.{key}"] = list(value.shape)
    for key, value in openclip(components["textEncoder2"]).items():
        ldm[f"conditioner.embedders.{0 if refiner else 1}.model.{key}"] = list(value.shape)
    return dict(
        unetConfig=dict(unet.config),
        components={name: shapes(state) for name, state in components.items()},
        singleFile=ldm,
    )


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, description in (
        ("base", describe(BASE)),
        ("refiner", describe(REFINER, refiner=True)),
        ("ssd-1b", describe(SSD_1B)),
    ):
        text = json.dumps(description, separators=(",", ":"))
        (OUT / f"{name}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        print(name, len(description["singleFile"]), "tensors in the single file")
    (OUT / "PROVENANCE.md").write_text(
        "# Provenance\n\n"
        "Made by `python tools/reference/shapes.py` (no random numbers) with"
        f" torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__},"
        f" transformers {transformers.__version__}: networks on the meta device, names of the single file by the"
        " functions that tools/reference/models.py proves with diffusers' converters.\n"
    )


if __name__ == "__main__":
    main()
