"""Make the models that the modes need beside tiny-a: `python tools/reference/mode_models.py` → test/golden/mode-models/.

tiny-refiner   diffusers folder, fp32, without a VAE: one text encoder, aesthetic score in place of the target size, and a
               schedule of its own (trailing spacing), on tiny-a's latents
tiny-inpaint   a UNet of nine input channels alone, which takes the place of tiny-a's

Weights are random, from fixed seeds, scaled as models.py does it.
"""

import json
import shutil
import sys
from pathlib import Path

import diffusers
import safetensors
import torch
import transformers
from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

sys.path.insert(0, str(Path(__file__).parent))
from models import SCHEDULER, TINY_A, VOCAB_SIZE, coarse, randomise, tokenizer

OUT = Path(__file__).resolve().parents[2] / "test/golden/mode-models"
REFINER_SCHEDULER = SCHEDULER | {"timestep_spacing": "trailing", "steps_offset": 0}


@torch.no_grad()
def build_unet(generator, time_ids, **changes):
    """A UNet of tiny-a's sizes with `changes`, whose noise has the spread that tiny-a's has."""
    spec = TINY_A["unet"] | changes
    unet = UNet2DConditionModel(**spec).eval()
    randomise(unet, generator)
    size = spec["sample_size"]
    latents = torch.randn((1, spec["in_channels"], size, size), generator=generator)
    context = torch.randn((1, 77, spec["cross_attention_dim"]), generator=generator)
    pooled = torch.randn((1, TINY_A["projection_dim"]), generator=generator)
    added = dict(text_embeds=pooled, time_ids=torch.tensor([time_ids]))
    noise = unet(latents, 500, context, added_cond_kwargs=added).sample
    unet.conv_out.weight.mul_(coarse(TINY_A["noise_std"] / noise.std().item()))
    return unet


@torch.no_grad()
def build_refiner():
    generator = torch.Generator("cpu").manual_seed(11)
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            **TINY_A["text_2"],
            vocab_size=VOCAB_SIZE,
            max_position_embeddings=77,
            projection_dim=TINY_A["projection_dim"],
            bos_token_id=VOCAB_SIZE - 2,
            eos_token_id=VOCAB_SIZE - 1,
            pad_token_id=0,
        )
    ).eval()
    randomise(text, generator)
    unet = build_unet(
        generator,
        [1024.0, 1024, 0, 0, 6],
        cross_attention_dim=TINY_A["text_2"]["hidden_size"],
        projection_class_embeddings_input_dim=TINY_A["projection_dim"] + 5 * TINY_A["unet"]["addition_time_embed_dim"],
    )
    return StableDiffusionXLImg2ImgPipeline(
        vae=None,
        text_encoder=None,
        text_encoder_2=text,
        tokenizer=None,
        tokenizer_2=tokenizer("!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_config(REFINER_SCHEDULER),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def main():
    if OUT.exists():
        shutil.rmtree(OUT)
    refiner = build_refiner()
    refiner.save_pretrained(OUT / "tiny-refiner")
    (OUT / "tiny-refiner/scheduler/scheduler_config.json").write_text(json.dumps(REFINER_SCHEDULER, indent=2) + "\n")
    inpaint = build_unet(torch.Generator("cpu").manual_seed(12), [1024.0, 1024, 0, 0, 1024, 1024], in_channels=9)
    inpaint.save_pretrained(OUT / "tiny-inpaint/unet")
    (OUT / "PROVENANCE.md").write_text(
        "# Provenance\n\n"
        "Made by `python tools/reference/mode_models.py` (seeds 11 and 12, torch's CPU generator) with"
        f" torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__},"
        f" transformers {transformers.__version__}, safetensors {safetensors.__version__}.\n\n"
        "Random weights; sizes and vocabulary are those of tiny-a (test/golden/models).\n"
    )


if __name__ == "__main__":
    main()
