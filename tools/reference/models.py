"""Make the tiny SDXL models of the tests: `python tools/reference/models.py` → test/golden/models/.

tiny-a                  diffusers folder, fp32, the configuration of diffusers' own SDXL tests, vocab.json + merges.txt
tiny-b                  diffusers folder, fp16, another structure in every respect, tokenizer.json alone
tiny-b-single-file.json how tiny-b's tensors make a single file (LDM/SGM names): one row a tensor,
                        [name, shape, "copy" | "transpose" | "concat", component, keys]

Weights are random, from fixed seeds, scaled so that activations stay near 1 from end to end. The single file is
proved by diffusers' own converters: converted back, it is the folder's state dict bit for bit. The tests put it
together from the rows (test/support/tiny-b-single-file.ts), so that its 9 MB are not kept twice.
"""

import gzip
import json
import math
import re
import shutil
from pathlib import Path

import diffusers
import safetensors
import torch
import transformers
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/golden/models"
BPE = ROOT / "models/clip/bpe_simple_vocab_16e6.txt.gz"
MERGES = 486
VOCAB_SIZE = 256 + 256 + MERGES + 2

# SDXL's own file, with the options that EulerDiscreteScheduler does not know: other schedulers read them from it.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": diffusers.__version__,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}

TINY_A = dict(
    seed=1,
    # Two channels under one norm answer a change of their input so strongly that noise of deviation 1 makes sampling
    # chaotic: a relative change of 1e-6 in every prediction moved the reference's own pixels by 13/255.
    noise_std=0.1,
    dtype=torch.float32,
    unet=dict(
        block_out_channels=(2, 4),
        layers_per_block=2,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        norm_num_groups=1,
    ),
    vae=dict(
        block_out_channels=(32, 64),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=128,
        scaling_factor=0.13025,
    ),
    text=dict(hidden_size=32, intermediate_size=37, num_hidden_layers=5, num_attention_heads=4, hidden_act="gelu"),
    text_2=dict(hidden_size=32, intermediate_size=37, num_hidden_layers=5, num_attention_heads=4, hidden_act="gelu"),
    projection_dim=32,
)

TINY_B = dict(
    seed=2,
    noise_std=1,
    dtype=torch.float16,
    unet=dict(
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        transformer_layers_per_block=(1, 1, 2),
        projection_class_embeddings_input_dim=128 + 6 * 32,
        cross_attention_dim=192,
        norm_num_groups=32,
    ),
    vae=dict(
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=128,
        scaling_factor=0.13025,
    ),
    text=dict(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=1, hidden_act="quick_gelu"
    ),
    text_2=dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=2, hidden_act="gelu"),
    projection_dim=128,
)


def small_vocabulary():
    """CLIP's vocabulary cut to the first merges: (vocab, merges)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    lines = gzip.open(BPE).read().decode("utf-8").split("\n")[1 : 1 + MERGES]
    merges = [tuple(line.split()) for line in lines]
    words = alphabet + [symbol + "</w>" for symbol in alphabet] + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(words)}
    assert len(vocab) == VOCAB_SIZE
    return vocab, merges


def tokenizer(pad):
    vocab, merges = small_vocabulary()
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)


def randomise(module, generator):
    """Kaiming-like weights, norms near one, small biases; 2-D and 4-D weights keep the variance of their input."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("embedding.weight"):
            value = noise * 0.5
        elif parameter.ndim >= 2:
            value = noise / math.sqrt(parameter[0].numel())
        elif name.endswith("weight"):
            value = 1 + 0.1 * noise
        else:
            value = 0.1 * noise
        parameter.data.copy_(value)


def coarse(value):
    """Two significant digits, so that last-bit differences between machines cannot change a weight."""
    return float(f"{value:.1e}")


@torch.no_grad()
def build(spec):
    generator = torch.Generator("cpu").manual_seed(spec["seed"])
    shared = dict(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=77,
        projection_dim=spec["projection_dim"],
        bos_token_id=VOCAB_SIZE - 2,
        eos_token_id=VOCAB_SIZE - 1,
    )
    text = CLIPTextModel(CLIPTextConfig(**spec["text"], **shared, pad_token_id=VOCAB_SIZE - 1)).eval()
    text_2 = CLIPTextModelWithProjection(CLIPTextConfig(**spec["text_2"], **shared, pad_token_id=0)).eval()
    unet = UNet2DConditionModel(**spec["unet"]).eval()
    vae = AutoencoderKL(**spec["vae"]).eval()
    for module in (text, text_2, unet, vae):
        randomise(module, generator)

    # The outputs get the spread that their users expect: noise of deviation noise_std, pictures within [-1, 1].
    size = spec["unet"]["sample_size"]
    latents = torch.randn((1, 4, size, size), generator=generator)
    context = torch.randn((1, 77, spec["unet"]["cross_attention_dim"]), generator=generator)
    pooled = torch.randn((1, spec["projection_dim"]), generator=generator)
    added = dict(text_embeds=pooled, time_ids=torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]]))
    noise = unet(latents, 500, context, added_cond_kwargs=added).sample
    unet.conv_out.weight.mul_(coarse(spec["noise_std"] / noise.std().item()))
    picture = vae.decode(latents / vae.config.scaling_factor).sample
    vae.decoder.conv_out.weight.mul_(coarse(0.4 / picture.std().item()))

    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokenizer("<|endoftext|>"),
        tokenizer_2=tokenizer("!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_config(SCHEDULER),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    return pipe.to(spec["dtype"])


def save(pipe, folder):
    pipe.save_pretrained(folder)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")


def write_old_tokenizer(folder, pad):
    """vocab.json + merges.txt and their companions, as transformers 4 wrote them, in place of tokenizer.json."""
    vocab, merges = small_vocabulary()
    shutil.rmtree(folder)
    folder.mkdir()
    special = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad)
    config = dict(add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=77)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    tokenizer_config = {**config, **special, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")


def ldm_resnet(name):
    for new, old in (
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    ):
        name = name.replace(new, old)
    return name


def ldm_unet_key(key, layers, with_attention):
    """The name in a single file of one tensor of the UNet; `layers` resnets in a down block."""
    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", key):
        block = int(match[1]) * (layers + 1) + int(match[3]) + 1
        return f"input_blocks.{block}.0.{ldm_resnet(match[4])}" if match[2] == "resnets" else f"input_blocks.{block}.1.{match[4]}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", key):
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d+)\.(.*)", key):
        return f"middle_block.{int(match[1]) * 2}.{ldm_resnet(match[2])}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.*)", key):
        return f"middle_block.1.{match[1]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", key):
        block = int(match[1]) * (layers + 1) + int(match[3])
        return f"output_blocks.{block}.0.{ldm_resnet(match[4])}" if match[2] == "resnets" else f"output_blocks.{block}.1.{match[4]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", key):
        place = 2 if int(match[1]) in with_attention else 1
        return f"output_blocks.{int(match[1]) * (layers + 1) + layers}.{place}.conv.{match[2]}"
    for new, old in (
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ):
        if key.startswith(new + "."):
            return old + key[len(new) :]
    raise ValueError(key)


def ldm_vae(key, value, last):
    """The name and value in a single file of one tensor of the VAE; `last` is the index of the last level."""
    if "mid_block.attentions.0." in key:
        for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        key = key.replace("mid_block.attentions.0.", "mid.attn_1.")
        if value.ndim == 2:
            value = value[:, :, None, None]
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda match: f"up.{last - int(match[1])}.block.", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda match: f"up.{last - int(match[1])}.upsample.", key)
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out"), value


def openclip(state):
    """A CLIPTextModelWithProjection's state dict under OpenCLIP's names, q, k and v in one tensor."""
    result = {}
    for key, value in state.items():
        if key == "text_projection.weight":
            result["text_projection"] = value.T.contiguous()
        elif key.endswith("position_embedding.weight"):
            result["positional_embedding"] = value
        elif key.endswith("token_embedding.weight"):
            result["token_embedding.weight"] = value
        elif "final_layer_norm" in key:
            result[key.replace("text_model.final_layer_norm", "ln_final")] = value
        elif match := re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", key):
            if match[2] == "q":
                parts = [state[f"{match[1]}.self_attn.{letter}_proj.{match[3]}"] for letter in "qkv"]
                packed = f"{match[1]}.attn.in_proj_{match[3]}"
                result[packed.replace("text_model.encoder.layers", "transformer.resblocks")] = torch.cat(parts)
        else:
            for new, old in (
                ("text_model.encoder.layers", "transformer.resblocks"),
                ("self_attn", "attn"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("fc1", "c_fc"),
                ("fc2", "c_proj"),
            ):
                key = key.replace(new, old)
            result[key] = value
    return result


def with_prefix(state):
    """transformers 5 leaves `text_model.` out of a CLIPTextModel; single files have it."""
    return {key if key.startswith("text_") else f"text_model.{key}": value for key, value in state.items()}


def single_file(pipe):
    unet, vae = pipe.unet.state_dict(), pipe.vae.state_dict()
    layers = pipe.unet.config.layers_per_block
    types = pipe.unet.config.up_block_types
    with_attention = {index for index, name in enumerate(types) if name.startswith("CrossAttn")}
    state = {f"model.diffusion_model.{ldm_unet_key(key, layers, with_attention)}": value for key, value in unet.items()}
    for key, value in vae.items():
        name, value = ldm_vae(key, value, len(pipe.vae.config.block_out_channels) - 1)
        state[f"first_stage_model.{name}"] = value
    for key, value in with_prefix(pipe.text_encoder.state_dict()).items():
        state[f"conditioner.embedders.0.transformer.{key}"] = value
    for key, value in openclip(pipe.text_encoder_2.state_dict()).items():
        state[f"conditioner.embedders.1.model.{key}"] = value
    return {key: value.contiguous() for key, value in state.items()}


def prove(pipe, state):
    """diffusers' converters give the folder's tensors back."""
    text = single_file_utils.convert_ldm_clip_checkpoint(state)
    text_2 = single_file_utils.convert_open_clip_checkpoint(
        pipe.text_encoder_2, dict(state), prefix="conditioner.embedders.1.model."
    )
    pairs = (
        (pipe.unet.state_dict(), single_file_utils.convert_ldm_unet_checkpoint(dict(state), pipe.unet.config)),
        (pipe.vae.state_dict(), single_file_utils.convert_ldm_vae_checkpoint(dict(state), pipe.vae.config)),
        (with_prefix(pipe.text_encoder.state_dict()), text),
        (pipe.text_encoder_2.state_dict(), text_2),
    )
    for expected, actual in pairs:
        assert expected.keys() == actual.keys(), expected.keys() ^ actual.keys()
        for key, value in expected.items():
            assert torch.equal(value, actual[key]), key


@torch.no_grad()
def report(folder):
    """Load the folder as a user would and describe a picture of it, so that dead activations are seen."""
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.text_encoder, pipe.text_encoder_2, pipe.unet, pipe.vae):
        assert all(parameter.isfinite().all() for parameter in module.parameters())
    embeds, _, pooled, _ = pipe.encode_prompt("a red apple", do_classifier_free_guidance=False)
    other, _, _, _ = pipe.encode_prompt("the blue sea", do_classifier_free_guidance=False)
    size = pipe.unet.config.sample_size * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    make = lambda prompt, kind: pipe(
        prompt,
        height=size,
        width=size,
        num_inference_steps=10,
        guidance_scale=5,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type=kind,
    ).images
    apple, sea = make("a red apple", "np"), make("the blue sea", "np")
    print(
        f"{folder.name}: embeds {embeds.std():.2f}, pooled {pooled.std():.2f}, between prompts {(embeds - other).std():.2f},"
        f" latents {make('a red apple', 'latent').std():.2f}, picture {apple.mean():.2f} ± {apple.std():.2f}"
        f" ({((apple <= 0) | (apple >= 1)).mean():.0%} clipped), between prompts {abs(apple - sea).mean():.3f}"
    )


def recipe(pipe, state):
    """The rows of tiny-b-single-file.json; a tensor's source is found by its bytes, which are all different."""
    sources = {
        (component, key): value
        for component in ("unet", "vae", "text_encoder", "text_encoder_2")
        for key, value in getattr(pipe, component).state_dict().items()
    }
    by_bytes = {value.numpy().tobytes(): source for source, value in sources.items()}
    assert len(by_bytes) == len(sources)
    rows = []
    for name, value in state.items():
        if (source := by_bytes.get(value.numpy().tobytes())) is not None:
            how, parts = "copy", [source]
        elif name.endswith("text_projection"):
            how, parts = "transpose", [by_bytes[value.T.contiguous().numpy().tobytes()]]
        else:
            how, parts = "concat", [by_bytes[part.contiguous().numpy().tobytes()] for part in value.chunk(3)]
        rows.append([name, list(value.shape), how, parts[0][0], [key for _, key in parts]])
    return rows


def main():
    if OUT.exists():
        shutil.rmtree(OUT)
    OUT.mkdir(parents=True)
    tiny_a = build(TINY_A)
    save(tiny_a, OUT / "tiny-a")
    write_old_tokenizer(OUT / "tiny-a/tokenizer", "<|endoftext|>")
    write_old_tokenizer(OUT / "tiny-a/tokenizer_2", "!")

    tiny_b = build(TINY_B)
    save(tiny_b, OUT / "tiny-b")
    state = single_file(tiny_b)
    prove(tiny_b, state)
    rows = ",\n".join(json.dumps(row) for row in recipe(tiny_b, state))
    (OUT / "tiny-b-single-file.json").write_text(f"[\n{rows}\n]\n")

    for name in ("tiny-a", "tiny-b"):
        report(OUT / name)
    (OUT / "PROVENANCE.md").write_text(
        "# Provenance\n\n"
        "Made by `python tools/reference/models.py` (seeds 1 and 2, torch's CPU generator) with"
        f" torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__},"
        f" transformers {transformers.__version__}, safetensors {safetensors.__version__}.\n\n"
        "Random weights; the tokenizers are CLIP's vocabulary (models/clip) cut to its first"
        f" {MERGES} merges. `tiny-b-single-file.json` tells how the tensors of `tiny-b` make a single file;"
        " diffusers' converters give the folder's tensors back from it bit for bit.\n"
    )


if __name__ == "__main__":
    main()
