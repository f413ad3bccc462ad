"""UNet, text encoders, tokenizers and noise schedule: SDXL's classes and wiring in small sizes."""

import gzip
import json
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from vae import LATENTS

ROOT = Path(__file__).resolve().parents[2]
MERGES = ROOT / "models/clip/bpe_simple_vocab_16e6.txt.gz"
MERGES_KEPT = 5000
WIDTH, WIDTH_2 = 128, 192
TOKENS = 77
SCHEDULE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon", "timestep_spacing": "leading",
}  # fmt: skip
CHANNELS = (48, 64, 128, 192)
HEADS = (2, 2, 4, 6)


def alphas_cumprod() -> torch.Tensor:
    """SDXL's schedule: the remaining part of the signal's power at each of 1000 timesteps."""
    betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def unet(channels: tuple[int, ...] = CHANNELS) -> UNet2DConditionModel:
    """An untrained UNet. The largest maps get few channels; the text is seen at 16 × 16 places and fewer."""
    network = UNet2DConditionModel(
        sample_size=32, in_channels=LATENTS, out_channels=LATENTS, block_out_channels=channels, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, cross_attention_dim=WIDTH + WIDTH_2, attention_head_dim=HEADS, transformer_layers_per_block=1,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + WIDTH_2, time_embedding_dim=256, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    # The fused attention is slow backwards on a CPU.
    network.set_attn_processor(AttnProcessor())
    return network


def write_tokenizers(folder: Path) -> None:
    """CLIP's byte pairs cut to the first 5000 merges: FOLDER/tokenizer and tokenizer_2, which differ in the padding alone."""
    lines = gzip.decompress(MERGES.read_bytes()).decode().split("\n")[1 : 1 + MERGES_KEPT]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [
        *letters,
        *(c + "</w>" for c in letters),
        *("".join(line.split()) for line in lines),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
    for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
        (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
        settings = {
            "tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "pad_token": padding, "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "do_lower_case": True, "errors": "replace",
        }  # fmt: skip
        (target / "tokenizer_config.json").write_text(json.dumps(settings))


@cache
def tokenizers(state: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Both tokenizers, written on first use."""
    if not (state / "tokenizer_2/vocab.json").exists():
        write_tokenizers(state)
    return CLIPTokenizer.from_pretrained(state / "tokenizer"), CLIPTokenizer.from_pretrained(state / "tokenizer_2")


def text_encoders(vocabulary: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Both untrained text encoders."""
    shared = {
        "vocab_size": vocabulary, "max_position_embeddings": TOKENS, "hidden_act": "gelu",
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
    }  # fmt: skip
    first = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=2, projection_dim=WIDTH,
        pad_token_id=vocabulary - 1, **shared,
    )  # fmt: skip
    second = CLIPTextConfig(
        hidden_size=WIDTH_2, intermediate_size=4 * WIDTH_2, num_hidden_layers=3, num_attention_heads=3, projection_dim=WIDTH_2,
        pad_token_id=0, **shared,
    )  # fmt: skip
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def tokens(state: Path, captions: list[str]) -> torch.Tensor:
    """Captions as both tokenizers' ids: (B, 2, 77)."""
    rows = [
        t(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
        for t in tokenizers(state)
    ]
    return torch.stack(rows, 1)


def conditions(
    first: CLIPTextModel, second: CLIPTextModelWithProjection, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What SDXL's pipeline makes of ids (B, 2, 77): both last hidden states but one, (B, 77, 320), and the pooled one (B, 192)."""
    states = first(ids[:, 0], output_hidden_states=True).hidden_states[-2]
    output = second(ids[:, 1], output_hidden_states=True)
    return torch.cat([states, output.hidden_states[-2]], -1), output.text_embeds
