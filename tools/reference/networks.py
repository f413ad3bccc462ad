"""Whole networks on seeded inputs: `python tools/reference/networks.py` → test/golden/networks/.

One safetensors file a model (tiny-a, tiny-b, pocket). A case is a prefix, e.g. `unet-32x24/sample` … `unet-32x24/y`.
Weights are those of the model's folder, computed in fp32.
"""

from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/golden/networks"
SEED = 12
# Latent rows × columns for the UNet. Odd ones reach the upsampling to a skip connection's size.
MODELS = {
    "tiny-a": dict(path=ROOT / "test/golden/models/tiny-a", unet=[(32, 24), (13, 9)], vae=[(8, 6)]),
    "tiny-b": dict(path=ROOT / "test/golden/models/tiny-b", unet=[(16, 16), (11, 18)], vae=[(4, 6)]),
    "pocket": dict(path=ROOT / "test/golden/models/pocket", unet=[(26, 38)], vae=[(2, 3)]),
}


def main():
    torch.set_grad_enabled(False)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, model in MODELS.items():
        pipe = StableDiffusionXLPipeline.from_pretrained(model["path"], torch_dtype=torch.float32)
        generator = torch.Generator("cpu").manual_seed(SEED)
        cases = {}
        unets(cases, pipe.unet, model["unet"], generator)
        vaes(cases, pipe.vae, model["vae"], generator)
        texts(cases, pipe, generator)
        save_file({key: value.clone().contiguous() for key, value in cases.items()}, OUT / f"{name}.safetensors")
        print(name, (OUT / f"{name}.safetensors").stat().st_size, {k: round(float(v.float().std()), 3) for k, v in cases.items() if k.split("/")[1] in ("y", "image", "moments", "pooled", "hidden")})
    (OUT / "PROVENANCE.md").write_text(
        f"# Networks\n\nMade by `python tools/reference/networks.py` with torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}, torch.Generator('cpu').manual_seed({SEED}) a model, fp32 on CPU.\n"
    )


def unets(cases, unet, sizes, generator):
    randn = lambda *shape: torch.randn(shape, generator=generator)
    config = unet.config
    pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    for height, width in sizes:
        inputs = dict(
            sample=randn(2, config.in_channels, height, width),
            encoder_hidden_states=randn(2, 77, config.cross_attention_dim),
            text_embeds=randn(2, pooled_width),
            time_ids=torch.tensor([[1024.0, 768.0, 0.0, 0.0, 1024.0, 768.0]] * 2),
            timestep=torch.tensor([601.0]),
        )
        call = lambda **more: unet(
            inputs["sample"],
            inputs["timestep"],
            inputs["encoder_hidden_states"],
            added_cond_kwargs=dict(text_embeds=inputs["text_embeds"], time_ids=inputs["time_ids"]),
            **more,
        ).sample
        case = f"unet-{height}x{width}"
        cases |= {f"{case}/{key}": value for key, value in inputs.items()} | {f"{case}/y": call()}
        # A ControlNet's residuals: the shape of each skip connection, found by looking at what the up path takes.
        shapes = skip_shapes(unet, call)
        down = [randn(*shape) * 0.3 for shape in shapes]
        mid = randn(*mid_shape(unet, call)) * 0.3
        if (height, width) == sizes[-1] and sum(t.numel() for t in down) < 200_000:
            cases |= {f"{case}/down.{index}": value for index, value in enumerate(down)} | {f"{case}/mid": mid}
            cases[f"{case}/y-control"] = call(down_block_additional_residuals=down, mid_block_additional_residual=mid)


def skip_shapes(unet, call):
    shapes = []
    hooks = [unet.conv_in.register_forward_hook(lambda m, i, o: shapes.append(o.shape))]
    for block in unet.down_blocks:
        hooks.append(block.register_forward_hook(lambda m, i, o: shapes.extend(t.shape for t in o[1])))
    call()
    for hook in hooks:
        hook.remove()
    return shapes


def mid_shape(unet, call):
    shapes = []
    hook = unet.mid_block.register_forward_hook(lambda m, i, o: shapes.append(o.shape))
    call()
    hook.remove()
    return shapes[0]


def vaes(cases, vae, sizes, generator):
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    for height, width in sizes:
        case = f"vae-{height}x{width}"
        latents = torch.randn((1, vae.config.latent_channels, height, width), generator=generator)
        image = torch.rand((1, 3, height * factor, width * factor), generator=generator) * 2 - 1
        posterior = vae.encode(image).latent_dist
        cases |= {f"{case}/latents": latents, f"{case}/image": vae.decode(latents).sample}
        cases |= {f"{case}/picture": image, f"{case}/moments": posterior.parameters}


def texts(cases, pipe, generator):
    for case, encoder in (("text", pipe.text_encoder), ("text2", pipe.text_encoder_2)):
        config = encoder.config
        ids = torch.randint(0, config.vocab_size - 2, (2, 77), generator=generator)
        ids[:, 0] = config.vocab_size - 2
        ids[0, 12:] = config.vocab_size - 1
        ids[1, 76] = config.vocab_size - 1
        out = encoder(ids, output_hidden_states=True)
        cases[f"{case}/ids"] = ids
        for skip in (1, 2):
            cases[f"{case}/hidden-{skip}"] = out.hidden_states[-(skip + 1)]
        if case == "text2":
            cases[f"{case}/pooled"] = out.text_embeds


main()
