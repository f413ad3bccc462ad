"""Pictures from a folder of diffusers: DDIM with guidance in batches, as StableDiffusionXLPipeline computes it one by one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from networks import conditions


@dataclass(frozen=True)
class Model:
    """A model's parts, in fp32."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    first: CLIPTextModel
    second: CLIPTextModelWithProjection
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    scheduler: DDIMScheduler


def open_model(folder: Path, device: torch.device) -> Model:
    """Open a folder in diffusers' layout."""
    kept = {"torch_dtype": torch.float32}
    unet = (
        UNet2DConditionModel.from_pretrained(folder / "unet", **kept)
        .eval()
        .to(device, memory_format=torch.channels_last)
    )
    unet.set_attn_processor(AttnProcessor())
    return Model(
        unet,
        AutoencoderKL.from_pretrained(folder / "vae", **kept).eval().to(device, memory_format=torch.channels_last),
        CLIPTextModel.from_pretrained(folder / "text_encoder", **kept).eval().to(device),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", **kept).eval().to(device),
        (CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")),
        DDIMScheduler.from_pretrained(folder / "scheduler"),
    )


@torch.no_grad()
def sample(
    model: Model,
    prompts: list[str],
    seed: int,
    steps: int = 30,
    scale: float = 12.0,
    size: tuple[int, int] = (1024, 1024),
) -> torch.Tensor:
    """Pictures (N, 3, height/4, width/4) in -1..1 on the CPU, averaged down by 4; the nth has the seed seed + n."""
    device = next(model.unet.parameters()).device
    width, height = size
    factor = 2 ** (len(model.vae.config.block_out_channels) - 1)
    rows = []
    for at in range(0, len(prompts), 8):
        part = prompts[at : at + 8]
        ids = torch.stack(
            [
                t(part, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
                for t in model.tokenizers
            ],
            1,
        ).to(device)
        states, pooled = conditions(model.first, model.second, ids)
        states, pooled = (torch.cat([torch.zeros_like(c), c]) for c in (states, pooled))
        noise = [
            torch.randn(
                1,
                model.unet.config.in_channels,
                height // factor,
                width // factor,
                generator=torch.Generator().manual_seed(seed + at + i),
            )
            for i in range(len(part))
        ]
        x = torch.cat(noise).to(device)
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=device).float().expand(2 * len(part), -1)
        model.scheduler.set_timesteps(steps)
        for t in model.scheduler.timesteps:
            guess = model.unet(
                torch.cat([x, x]), t.to(device), states, added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids}
            ).sample
            without, with_text = guess.chunk(2)
            x = model.scheduler.step(without + scale * (with_text - without), t, x).prev_sample
        for z in (x / model.vae.config.scaling_factor).split(1):
            y = model.vae.decode(z).sample.clamp(-1, 1)
            rows.append(torch.nn.functional.avg_pool2d(y, 4).cpu())
    return torch.cat(rows)
