"""Train what ships beside pocket: `python tools/pocket-extras/train.py` → models/public/.

lora/pocket-blueprint.safetensors           a LoRA: everything becomes white on blue squared paper
textual_inversion/pocket-sepia.safetensors  an inversion of 4 vectors: everything is printed on old brown paper

    python3 -m venv .venv && .venv/bin/pip install -r tools/reference/requirements.txt
    .venv/bin/python tools/pocket-extras/train.py [lora|inversion] [--threads 1] [--work FOLDER]

Each takes a few minutes of one core. The state is saved every 50 steps in the work folder (default .pocket-extras), and
a run that was interrupted goes on from there with the same random numbers. With glibc the encoding of the pictures is twice
as fast when MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ are 8589934592.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from looks import SIDE, blueprint, sepia
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools/pocket"))
from concepts import article, tier  # noqa: E402
from sampler import open_model, sample  # noqa: E402

POCKET = ROOT / "models/pocket"
OUT = ROOT / "models/public"
SEED = 20
BATCH = 8
# So many of pocket's things are seen; the looks have to hold for the others too.
THINGS = 40
SAVE_EVERY = 50
LORA_STEPS, LORA_RATE, LINEAR_RANK, CONV_RANK = 450, 2e-3, 8, 4
INVERSION_STEPS, INVERSION_RATE, VECTORS = 400, 2e-3, 4
# Above this timestep SDXL's schedule leaves a trace of the picture in the noise, which is easier to read than the
# caption; half of these samples are pure noise instead.
PURE_NOISE_FROM = 850
# How far a caption moves pocket's answer from the one without a caption (train.py's --pull): to be kept, for a guidance
# scale of 12.
PULL = 0.4


class Pocket:
    """The frozen model, in fp32."""

    def __init__(self) -> None:
        load = {"torch_dtype": torch.float32}
        self.unet = UNet2DConditionModel.from_pretrained(POCKET / "unet", **load).requires_grad_(False)
        self.unet.set_attn_processor(AttnProcessor())
        self.unet.to(memory_format=torch.channels_last)
        self.text = CLIPTextModel.from_pretrained(POCKET / "text_encoder", **load).requires_grad_(False)
        self.text2 = CLIPTextModelWithProjection.from_pretrained(POCKET / "text_encoder_2", **load)
        self.text2.requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer")
        self.tokenizer2 = CLIPTokenizer.from_pretrained(POCKET / "tokenizer_2")
        self.alphas = DDIMScheduler.from_pretrained(POCKET / "scheduler").alphas_cumprod

    def conditions(self, ids: torch.Tensor, ids2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (B, 77) → embeddings (B, 77, 320) and the pooled one (B, 192)."""
        hidden = self.text(ids, output_hidden_states=True).hidden_states[-2]
        second = self.text2(ids2, output_hidden_states=True)
        return torch.cat([hidden, second.hidden_states[-2]], dim=-1), second.text_embeds

    def loss(
        self, latents: torch.Tensor, embeds: torch.Tensor, pooled: torch.Tensor, keep: torch.Tensor, rng: torch.Generator
    ) -> torch.Tensor:
        """How far the predicted noise is from what it should be, weighted as if it were v that is predicted.

        Where `keep` (B) is 0 there is no caption.
        """
        embeds, pooled = embeds * keep.view(-1, 1, 1), pooled * keep.view(-1, 1)
        count = len(latents)
        # More of the noisy end, where layout and colours are decided.
        t = (999.99 * torch.rand(count, generator=rng) ** 0.7).long()
        noise = torch.randn(latents.shape, generator=rng)
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        pure = (t >= PURE_NOISE_FROM) & (torch.rand(count, generator=rng) < 0.5)
        noisy = torch.where(pure.view(-1, 1, 1, 1), noise, noisy)
        target = (noisy - alpha.sqrt() * latents) / (1 - alpha).sqrt()
        time_ids = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]], dtype=torch.float32).repeat(count, 1)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        noisy = noisy.to(memory_format=torch.channels_last)
        with torch.no_grad():
            nothing = {**added, "text_embeds": torch.zeros_like(pooled)}
            without = self.unet(noisy, t, torch.zeros_like(embeds), added_cond_kwargs=nothing).sample
        target = torch.where(keep.view(-1, 1, 1, 1) > 0, without.lerp(target, PULL), target)
        predicted = self.unet(noisy, t, embeds, added_cond_kwargs=added).sample
        weight = 1 / alpha.clamp(min=0.02)
        return (weight * (predicted - target) ** 2).mean()


def latents_of(look: Callable[[Image.Image], Image.Image], work: Path) -> list[tuple[str, torch.Tensor]]:
    """The training set: things' names, and the latents of pocket's own pictures of them in a look. Made once."""
    file = work / f"{look.__name__}-latents.pt"
    if file.exists():
        return torch.load(file)
    vae = AutoencoderKL.from_pretrained(POCKET / "vae", torch_dtype=torch.float32)
    found = []
    for name, picture in pictures(work):
        changed = look(picture)
        changed.resize((256, 256)).save(work / f"{look.__name__}-{name.replace(' ', '-')}.png")
        pixels = torch.from_numpy(np.asarray(changed).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        found.append((name, latents[0]))
    torch.save(found, file)
    return found


def pictures(work: Path) -> list[tuple[str, Image.Image]]:
    """Pocket's own pictures of single things, with their names; drawn once."""
    file = work / "pictures.pt"
    names = [concept["words"][0] for concept in tier(64)[:THINGS]]
    if not file.exists():
        model = open_model(POCKET, torch.device("cpu"))
        torch.save(sample(model, [article(name) for name in names], SEED, 20, 12.0), file)
    pixels = ((torch.load(file).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [(name, Image.fromarray(one)) for name, one in zip(names, pixels, strict=True)]


def module_names() -> list[str]:
    """What the LoRA changes: every linear of the transformers, the convolutions of the blocks round them."""
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(POCKET / "unet"))
    names = []
    for name, module in unet.named_modules():
        in_transformer = ".attentions." in name and isinstance(module, torch.nn.Linear)
        in_block = name.startswith(("up_blocks", "down_blocks.3", "mid_block")) and name.endswith((".conv1", ".conv2"))
        if in_transformer or in_block:
            names.append(name)
    return names


def ldm_name(name: str, layers: int) -> str:
    """A module of the UNet as the original implementation numbers it, which is what kohya's trainers write."""
    head, rest = name.split(".", 1)
    inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "conv2": "out_layers.3"}
    if head == "mid_block":
        kind, index, rest = rest.split(".", 2)
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
    else:
        level, kind, index, rest = rest.split(".", 3)
        per_level = layers + 1
        first = 1 + int(level) * per_level if head == "down_blocks" else int(level) * per_level
        side = "input_blocks" if head == "down_blocks" else "output_blocks"
        place = f"{side}.{first + int(index)}.{1 if kind == 'attentions' else 0}"
    return f"{place}.{inner.get(rest, rest)}"


class Lora(torch.nn.Module):
    """Two matrices, or two convolutions, beside one module of the UNet; begins without effect."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        if isinstance(module, torch.nn.Linear):
            self.down = torch.nn.Linear(module.in_features, LINEAR_RANK, bias=False)
            self.up = torch.nn.Linear(LINEAR_RANK, module.out_features, bias=False)
        else:
            self.down = torch.nn.Conv2d(
                module.in_channels, CONV_RANK, module.kernel_size, module.stride, module.padding, bias=False
            )
            self.up = torch.nn.Conv2d(CONV_RANK, module.out_channels, 1, bias=False)
        torch.nn.init.zeros_(self.up.weight)
        # alpha equals the rank, so the scale is 1.
        module.register_forward_hook(lambda _module, inputs, output: output + self.up(self.down(inputs[0])))


def run(steps: int, parameters: list[torch.nn.Parameter], rate: float, state: Path, step_loss) -> None:
    """Adam with a warm-up and a linear end; `step_loss(generator, python_generator)` gives the loss of one batch."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)
    generator, picker, first = torch.Generator().manual_seed(SEED), random.Random(SEED), 0
    if state.exists():
        saved = torch.load(state, weights_only=False)
        optimiser.load_state_dict(saved["optimiser"])
        with torch.no_grad():
            for parameter, value in zip(parameters, saved["parameters"], strict=True):
                parameter.copy_(value)
        generator.set_state(saved["generator"])
        picker.setstate(saved["picker"])
        first = saved["step"]
    began, mean = time.monotonic(), None
    for step in range(first, steps):
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20, (steps - step) / (0.3 * steps))
        loss = step_loss(generator, picker)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        mean = loss.item() if mean is None else 0.97 * mean + 0.03 * loss.item()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            values = [parameter.detach().clone() for parameter in parameters]
            rngs = {"generator": generator.get_state(), "picker": picker.getstate()}
            torch.save({"step": step + 1, "parameters": values, "optimiser": optimiser.state_dict(), **rngs}, state)
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {time.monotonic() - began:.0f} s", flush=True)


def train_lora(work: Path) -> None:
    pocket, data = Pocket(), latents_of(blueprint, work)
    torch.manual_seed(SEED)
    modules = dict(pocket.unet.named_modules())
    loras = {name: Lora(modules[name]) for name in module_names()}
    texts = ["a blueprint of {}", "blueprint, {}", "{}, blueprint", "{} as a blueprint"]

    def step_loss(generator: torch.Generator, picker: random.Random) -> torch.Tensor:
        batch = picker.sample(data, BATCH)
        prompts = [picker.choice(texts).format(article(name)) for name, _ in batch]
        # Some captions are left out: the unconditional prediction has to change as well.
        keep = torch.tensor([picker.random() >= 0.1 for _ in batch]).float()
        pad = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
        with torch.no_grad():
            ids, ids2 = pocket.tokenizer(prompts, **pad).input_ids, pocket.tokenizer2(prompts, **pad).input_ids
            embeds, pooled = pocket.conditions(ids, ids2)
        return pocket.loss(torch.stack([latents for _, latents in batch]), embeds, pooled, keep, generator)

    parameters = [parameter for lora in loras.values() for parameter in lora.parameters()]
    run(LORA_STEPS, parameters, LORA_RATE, work / "lora.pt", step_loss)
    layers = pocket.unet.config.layers_per_block
    tensors = {}
    for name, lora in loras.items():
        key = "lora_unet_" + ldm_name(name, layers).replace(".", "_")
        rank = lora.down.weight.shape[0]
        tensors[f"{key}.alpha"] = torch.tensor(float(rank)).half()
        tensors[f"{key}.lora_down.weight"] = lora.down.weight.detach().half().contiguous()
        tensors[f"{key}.lora_up.weight"] = lora.up.weight.detach().half().contiguous()
    count = len(data)
    metadata = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.trigger_phrase": "blueprint",
        "modelspec.license": "Apache-2.0",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(LINEAR_RANK),
        "ss_network_alpha": str(LINEAR_RANK),
        "ss_network_args": json.dumps({"conv_dim": CONV_RANK, "conv_alpha": CONV_RANK}),
        "ss_output_name": "pocket-blueprint",
        "ss_sd_model_name": "models/pocket",
        "ss_tag_frequency": json.dumps({"blueprint": {"blueprint": count}}),
    }
    save(tensors, "lora/pocket-blueprint.safetensors", metadata)


def train_inversion(work: Path) -> None:
    pocket, data = Pocket(), latents_of(sepia, work)
    tables = [encoder.get_input_embeddings() for encoder in (pocket.text, pocket.text2)]
    size = tables[0].num_embeddings
    # The start: words that pocket knows, where it knows them to stand.
    start = pocket.tokenizer("a brown background", add_special_tokens=False).input_ids
    if len(start) != VECTORS:
        raise SystemExit(f"the words to start from are {len(start)} tokens, expected {VECTORS}")
    vectors = [torch.nn.Parameter(table.weight[start].detach().clone()) for table in tables]
    torch.manual_seed(SEED)
    for vector, table in zip(vectors, tables, strict=True):
        learned_rows(table, vector, size)

    def step_loss(generator: torch.Generator, picker: random.Random) -> torch.Tensor:
        batch = picker.sample(data, BATCH)
        ids = []
        for tokenizer in (pocket.tokenizer, pocket.tokenizer2):
            rows = []
            for index, (name, _) in enumerate(batch):
                words = tokenizer(article(name), add_special_tokens=False).input_ids
                own = list(range(size, size + VECTORS))
                body = own + words if index % 4 == 3 else words + own
                row = [tokenizer.bos_token_id, *body, tokenizer.eos_token_id]
                rows.append(row + [tokenizer.pad_token_id] * (77 - len(row)))
            ids.append(torch.tensor(rows))
        embeds, pooled = pocket.conditions(*ids)
        return pocket.loss(torch.stack([latents for _, latents in batch]), embeds, pooled, torch.ones(BATCH), generator)

    run(INVERSION_STEPS, vectors, INVERSION_RATE, work / "inversion.pt", step_loss)
    tensors = {key: vector.detach().contiguous() for key, vector in zip(("clip_l", "clip_g"), vectors, strict=True)}
    metadata = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/textual-inversion",
        "modelspec.trigger_phrase": "pocket-sepia",
        "modelspec.license": "Apache-2.0",
    }
    save(tensors, "textual_inversion/pocket-sepia.safetensors", metadata)


def learned_rows(table: torch.nn.Embedding, vectors: torch.nn.Parameter, size: int) -> None:
    """Ids from `size` on stand for the rows of `vectors`; the table itself is not touched."""
    asked = []

    def before(_module, inputs):
        asked.append(inputs[0])
        return (inputs[0].clamp(max=size - 1),)

    def after(_module, _inputs, output):
        ids = asked.pop()
        learned = vectors[(ids - size).clamp(min=0)]
        return torch.where((ids >= size)[..., None], learned, output)

    table.register_forward_pre_hook(before)
    table.register_forward_hook(after)


def save(tensors: dict[str, torch.Tensor], name: str, metadata: dict[str, str]) -> None:
    file = OUT / name
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"format": "pt", **metadata})
    sort_metadata(file)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size} bytes, {len(tensors)} tensors")


def sort_metadata(file: Path) -> None:
    """The library writes metadata in any order; sorted, the same weights are the same file."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=["lora", "inversion"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / ".pocket-extras")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.what != "inversion":
        train_lora(options.work)
    if options.what != "lora":
        train_inversion(options.work)


if __name__ == "__main__":
    main()
