"""Pictures of the tiny models with another VAE, by diffusers in fp32.

    .venv/bin/python tools/reference/vae_swap.py

Writes test/golden/vae-swap/: random VAEs as files of their own, `cases.json` and `<case>.png`, from text and from a
picture of test/golden/modes/inputs.
"""

import json
import platform
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from parity import MODELS, ROOT
from schedulers import from_config

FOLDER = ROOT / "test/golden/vae-swap"
# Another width, depth and middle than the models' own, with the same latents.
VAES = {
    "tiny-a": dict(block_out_channels=(32, 32), layers_per_block=2),
    "tiny-b": dict(block_out_channels=(32, 32, 32, 32), layers_per_block=1, mid_block_add_attention=False),
}


def make_vae(model, own):
    torch.manual_seed(7)
    blocks = len(VAES[model]["block_out_channels"])
    vae = AutoencoderKL(
        **VAES[model],
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        scaling_factor=own.config.scaling_factor,
    ).eval()
    state = {key: tensor.half() for key, tensor in vae.state_dict().items()}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, FOLDER / f"{model}.safetensors")
    vae.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return vae


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    cases = []
    for model in VAES:
        pipe = StableDiffusionXLPipeline.from_pretrained(ROOT / MODELS[model], torch_dtype=torch.float32)
        pipe.vae = make_vae(model, pipe.vae)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = from_config("DDIM", dict(pipe.scheduler.config))
        start = Image.open(ROOT / "test/golden/modes/inputs/picture-64x64.png").convert("RGB")
        other = StableDiffusionXLImg2ImgPipeline(**pipe.components)
        other.set_progress_bar_config(disable=True)
        for mode in ("text", "image"):
            c = dict(model=model, mode=mode, sampler="DDIM", width=64, height=64, steps=8, cfg=6, seed=3, prompt="a red apple")
            generator = torch.Generator("cpu").manual_seed(c["seed"])
            common = dict(prompt=c["prompt"], num_inference_steps=c["steps"], guidance_scale=c["cfg"], generator=generator)
            if mode == "text":
                picture = pipe(width=c["width"], height=c["height"], **common).images[0]
            else:
                c |= dict(init="picture-64x64", strength=0.6)
                picture = other(image=start, strength=c["strength"], **common).images[0]
            c["name"] = f"{model}-{mode}"
            picture.save(FOLDER / f"{c['name']}.png", optimize=True)
            cases.append(c)
    (FOLDER / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    (FOLDER / "PROVENANCE.md").write_text(
        "# Other VAEs\n\n"
        "Made by `python tools/reference/vae_swap.py` with "
        f"Python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}, fp32, on a CPU.\n"
        "Weights of the VAEs: seed 7, rounded to fp16.\n"
    )


if __name__ == "__main__":
    main()
