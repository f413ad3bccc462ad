"""Whole pictures that start from a picture or end with a refiner, by diffusers in fp32.

    python tools/reference/modes.py              all of them → test/golden/modes/
    python tools/reference/modes.py --missing    those that are not there yet

`inputs/` holds the pictures and masks, `<case>.png` what the networks make of them (before anything is pasted back) and
`cases.json` what each was made from. Needs the models of models.py and mode_models.py.

Where a refiner goes on with inpainting, diffusers' pipelines are joined so that both know the picture and its noise:
called one after the other as they are, the second would take the first one's noisy latents for the picture itself.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))
from prompt_embeds import encode_pair
from schedulers import from_config

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/golden/modes"
MODELS = {
    "tiny-a": "test/golden/models/tiny-a",
    "tiny-b": "test/golden/models/tiny-b",
    "tiny-inpaint": "test/golden/models/tiny-a",
    "pocket": "test/golden/models/pocket",
}
REFINER = ROOT / "test/golden/mode-models/tiny-refiner"
INPAINT_UNET = ROOT / "test/golden/mode-models/tiny-inpaint/unet"
PROMPT = "a (red:1.2) apple on a light blue background"
NEGATIVE = "a green dog, (dark:1.3)"


def case(model, mode, sampler, width, height, steps=10, cfg=7, seed=1, **more):
    detail = "-".join(str(value) for key, value in more.items() if key not in ("init", "mask", "prompt", "prompt_2"))
    name = f"{model}-{mode}-{width}x{height}-{sampler.lower()}-{steps}-cfg{cfg}" + (f"-{detail}" if detail else "")
    inputs = {} if mode == "text" else {"init": f"picture-{width}x{height}"}
    if mode == "inpaint":
        inputs["mask"] = f"mask-{width}x{height}"
    settings = dict(name=name, model=model, mode=mode, sampler=sampler, width=width, height=height, steps=steps, cfg=cfg, seed=seed)
    return settings | {"prompt": PROMPT} | inputs | more


def cases():
    tiny = ((64, 64), (96, 64))
    # Image to image: strengths over samplers of every kind. At low noise tiny-a is chaotic: a change of 1e-6 in the encoded
    # picture moved the reference's own pixels by 22/255; tiny-b's stay.
    samplers = ("DDIM", "K_EULER_ANCESTRAL", "K_HEUN", "DPM_PLUS_PLUS_2M_KARRAS")
    for index, sampler in enumerate(samplers):
        yield case("tiny-b", "image", sampler, 96, 64, cfg=(7, 12)[index % 2], strength=0.3)
        for strength in (0.6, 0.99, 1):
            yield case("tiny-a", "image", sampler, *tiny[index % 2], cfg=(7, 12)[index % 2], strength=strength)
    for sampler in ("DPM_2_ANCESTRAL", "PNDM", "UNI_PC", "LMS", "LCM", "DDPM", "DPM_SINGLE"):
        yield case("tiny-a", "image", sampler, 64, 64, strength=0.6)
    yield case("tiny-a", "image", "K_EULER", 64, 64, cfg=1, strength=0.6)
    yield case("tiny-b", "image", "DDIM", 96, 64, strength=0.6)
    yield case("tiny-b", "image", "DPM_2_ANCESTRAL_KARRAS", 96, 64, strength=0.3)
    yield case("pocket", "image", "DDIM", 1024, 1024, strength=0.6)

    # Inpainting with a base UNet and with one of nine channels.
    for model in ("tiny-a", "tiny-inpaint"):
        for index, sampler in enumerate(("DDIM", "K_EULER_ANCESTRAL", "K_HEUN")):
            for strength in (0.6, 0.99, 1):
                yield case(model, "inpaint", sampler, *tiny[index % 2], strength=strength)
        yield case(model, "inpaint", "K_EULER", 64, 64, cfg=1, strength=0.6)
        yield case(model, "inpaint", "DDIM", 64, 64, strength=1, padding=4, mask="spot-64x64")
        yield case(model, "inpaint", "K_EULER_ANCESTRAL", 96, 64, strength=0.6, padding=0, mask="spot-96x64")
    yield case("tiny-a", "inpaint", "DDIM", 64, 64, strength=0.6, resized=True, init="picture-81x50", mask="mask-81x50")
    yield case("tiny-b", "inpaint", "DPM_SOLVER_MULTISTEP", 96, 64, strength=0.6)
    yield case("pocket", "inpaint", "DDIM", 1024, 1024, strength=1)
    yield case("pocket", "inpaint", "K_EULER_ANCESTRAL", 1024, 1024, strength=0.6, padding=32, mask="spot-1024x1024")

    # A refiner after each of them, and alone.
    for split in (0.5, 0.8):
        for index, sampler in enumerate(("DDIM", "K_EULER_ANCESTRAL", "K_HEUN", "DPM_PLUS_PLUS_2M_KARRAS", "DPM_2")):
            yield case("tiny-a", "text", sampler, *tiny[index % 2], cfg=(7, 12)[index % 2], split=split)
        yield case("tiny-a", "image", "K_EULER_ANCESTRAL", 64, 64, strength=0.6, split=split)
        yield case("tiny-a", "inpaint", "DDIM", 64, 64, strength=1, split=split)
        yield case("tiny-a", "inpaint", "K_EULER_ANCESTRAL", 96, 64, strength=0.6, split=split)
        yield case("tiny-inpaint", "inpaint", "K_EULER_ANCESTRAL", 64, 64, strength=1, split=split)
    yield case("tiny-a", "text", "DDIM", 64, 64, cfg=1, split=0.8)
    yield case("tiny-a", "text", "DDIM", 64, 64, split=0.8, clip_skip=1)
    plain = dict(prompt="a red apple", prompt_2="a green tree on a yellow background")
    yield case("tiny-a", "text", "DDIM", 64, 64, split=0.8, words=2, **plain)
    yield case("tiny-a", "text", "DDIM", 64, 64, split=0.8, negative_prompt=NEGATIVE)
    yield case("tiny-a", "text", "K_EULER_ANCESTRAL", 64, 64, split=0)
    yield case("tiny-a", "image", "K_HEUN", 64, 64, strength=0.6, split=0)
    yield case("tiny-a", "inpaint", "DDIM", 64, 64, strength=0.6, split=0)
    # So weak that the base model's part is over: the refiner does it alone.
    yield case("tiny-a", "image", "DDIM", 64, 64, strength=0.3, split=0.5)


# --- pictures and masks ---------------------------------------------------------------------------------------------


def picture(width, height):
    """A red disc on a blue gradient, with a yellow bar: flat areas, a slope and edges."""
    image = Image.new("RGB", (width, height))
    for y in range(height):
        ImageDraw.Draw(image).line((0, y, width, y), (150 - 40 * y // height, 190, 235 - 60 * y // height))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.25, height * 0.2, width * 0.75, height * 0.8), (200, 40, 45))
    draw.rectangle((width * 0.1, height * 0.7, width * 0.9, height * 0.78), (240, 210, 60))
    return image


def mask(width, height):
    """White, and greys about the middle, over an area that ends between latents; black elsewhere."""
    image = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.3, height * 0.13, width * 0.85, height * 0.66), 255)
    draw.rectangle((0, height * 0.4, width * 0.2, height * 0.47), 128)
    draw.rectangle((0, height * 0.6, width * 0.2, height * 0.67), 127)
    return image


def spot(width, height):
    image = Image.new("L", (width, height), 0)
    ImageDraw.Draw(image).ellipse((width * 0.55, height * 0.5, width * 0.8, height * 0.7), 255)
    return image


def inputs():
    for size in ((64, 64), (96, 64), (81, 50), (1024, 1024)):
        name = "{}x{}".format(*size)
        yield f"picture-{name}", picture(*size)
        yield f"mask-{name}", mask(*size)
        yield f"spot-{name}", spot(*size)


# --- pipelines ------------------------------------------------------------------------------------------------------


def contiguous(preprocess):
    """Pictures come out of numpy with their channels last, and all that follows keeps that layout. torch's group norm loses
    digits there: pocket's VAE decodes 1.2/255 from what it gives in double precision, in this layout 0.001/255.
    """
    return lambda *args, **options: preprocess(*args, **options).contiguous()


class Inpaint(StableDiffusionXLInpaintPipeline):
    """diffusers' pipeline, which tells what it drew: `noise`, and the `encoded` pictures in their order."""

    def prepare_latents(self, *args, **options):
        self.encoded, self.generator = [], options.get("generator", args[6] if len(args) > 6 else None)
        outputs = super().prepare_latents(*args, **options)
        self.noise = outputs[1]
        return outputs

    def _encode_vae_image(self, image, generator):
        self.encoded.append(super()._encode_vae_image(image, generator))
        return self.encoded[-1]


class RefinerInpaint(StableDiffusionXLInpaintPipeline):
    """Goes on with latents, noise and picture of another pipeline; draws nothing itself before its first step."""

    handed_over = None

    def prepare_latents(self, *args, **options):
        return self.handed_over

    def prepare_mask_latents(self, mask, masked_image, *args, **options):
        return super().prepare_mask_latents(mask, None, *args, **options)


class Reference:
    """The pipelines of one model and its refiner."""

    def __init__(self, model):
        self.base = StableDiffusionXLPipeline.from_pretrained(ROOT / MODELS[model], torch_dtype=torch.float32)
        self.parts = dict(self.base.components)
        self.config = dict(self.base.scheduler.config)
        if model == "tiny-inpaint":
            self.parts["unet"] = UNet2DConditionModel.from_pretrained(INPAINT_UNET)
        elif model == "pocket":
            # The inpainting pipeline tells a base UNet by its 4 channels; pocket's VAE has 8. The UNet never reads it.
            self.parts["unet"].register_to_config(in_channels=4)
        refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(REFINER, vae=self.parts["vae"], torch_dtype=torch.float32)
        self.refiner_parts = dict(refiner.components)
        self.refiner_config = dict(refiner.scheduler.config)
        self.refiner = refiner

    def pipeline(self, kind, c, refiner=False):
        parts = self.refiner_parts if refiner else self.parts
        options = {} if kind is StableDiffusionXLPipeline else dict(requires_aesthetics_score=refiner)
        pipe = kind(**parts, force_zeros_for_empty_prompt=not refiner, add_watermarker=False, **options)
        pipe.scheduler = from_config(c["sampler"], self.refiner_config if refiner else self.config)
        pipe.set_progress_bar_config(disable=True)
        if kind is not StableDiffusionXLPipeline:
            # What is compared is the networks' picture; putting it back is another matter.
            pipe.image_processor.apply_overlay = lambda mask, original, painted, region: painted
            pipe.image_processor.preprocess = contiguous(pipe.image_processor.preprocess)
        return pipe

    def prompts(self, pipe, c):
        """Embeddings by Sepia's syntax; the refiner's pipeline looks at the first prompt alone."""
        refiner = pipe.text_encoder is None
        if refiner and "words" in c:
            embeds, negative, pooled, negative_pooled = pipe.encode_prompt(c["prompt"], c["prompt_2"])
        else:
            prompt_2 = None if refiner else c.get("prompt_2")
            embeds, negative, pooled, negative_pooled = encode_pair(
                pipe, c["prompt"], c.get("negative_prompt"), prompt_2=prompt_2, clip_skip=c.get("clip_skip")
            )
        return dict(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=negative_pooled,
        )


def make(reference, c, images):
    generator = torch.Generator("cpu").manual_seed(c["seed"])
    split = c.get("split")
    size = dict(width=c["width"], height=c["height"])
    common = dict(num_inference_steps=c["steps"], guidance_scale=c["cfg"], generator=generator)
    first = dict(denoising_end=split, output_type="latent") if split else {}

    def run(kind, refiner=False, **options):
        pipe = reference.pipeline(kind, c, refiner)
        return pipe, pipe(**reference.prompts(pipe, c), **common, **options).images

    def refine(latents):
        return run(StableDiffusionXLImg2ImgPipeline, True, image=latents, denoising_start=split)[1][0]

    if c["mode"] == "text":
        if split == 0:
            scheduler = from_config(c["sampler"], reference.refiner_config)
            scheduler.set_timesteps(c["steps"])
            factor = reference.base.vae_scale_factor
            noise = torch.randn((1, 4, c["height"] // factor, c["width"] // factor), generator=generator)
            latents = noise * scheduler.init_noise_sigma
            return run(StableDiffusionXLImg2ImgPipeline, True, image=noise, strength=1.0, latents=latents)[1][0]
        _, output = run(StableDiffusionXLPipeline, **size, **first)
        return output[0] if split is None else refine(output)

    image = images[c["init"]]
    if c["mode"] == "image":
        start = dict(image=image, strength=c["strength"])
        alone = split is not None and (split == 0 or c["strength"] < 1 - split)
        if alone:
            return run(StableDiffusionXLImg2ImgPipeline, True, **start)[1][0]
        _, output = run(StableDiffusionXLImg2ImgPipeline, **start, **first)
        return output[0] if split is None else refine(output)

    crop = {"padding_mask_crop": c["padding"]} if "padding" in c else {}
    start = dict(image=image, mask_image=images[c["mask"]], strength=float(c["strength"]), **size, **crop)
    if not split:
        return run(Inpaint, split == 0, **start)[1][0]
    return inpaint_and_refine(reference, c, start, common, first)


def inpaint_and_refine(reference, c, start, common, first):
    base = reference.pipeline(Inpaint, c)
    sees_mask = reference.parts["unet"].config.in_channels == 9
    known = {}

    def prepare_mask_latents(*args, **options):
        outputs = type(base).prepare_mask_latents(base, *args, **options)
        known["mask"] = outputs[0][:1]
        # A UNet of nine channels that starts from noise never sees the whole picture; for the refiner it is drawn last.
        drawn = not sees_mask or c["strength"] < 1
        known["picture"] = base.encoded[0] if drawn else base._encode_vae_image(known["image"], base.generator)
        return outputs

    def keep(pipe, index, timestep, values):
        """The end of the first part is not the end of the run: what is kept still has the noise of that moment."""
        if index < pipe.num_timesteps - 1 or sees_mask:
            return values
        following = pipe.scheduler.timesteps[pipe.scheduler.step_index if hasattr(pipe.scheduler, "step_index") else begin + index + 1]
        noised = pipe.scheduler.add_noise(known["picture"], base.noise, following[None])
        values["latents"] = torch.where(known["mask"] < 0.5, noised, values["latents"])
        return values

    begin = c["steps"] - min(int(c["steps"] * c["strength"]), c["steps"])
    known["image"] = base.image_processor.preprocess(start["image"], height=c["height"], width=c["width"])
    base.prepare_mask_latents = prepare_mask_latents
    latents = base(
        **reference.prompts(base, c),
        **common,
        **start,
        **first,
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["latents"],
    ).images
    refiner = reference.pipeline(RefinerInpaint, c, True)
    refiner.handed_over = (latents, base.noise, known["picture"])
    return refiner(**reference.prompts(refiner, c), **common, **start, denoising_start=c["split"]).images[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--missing", action="store_true")
    missing = parser.parse_args().missing
    (OUT / "inputs").mkdir(parents=True, exist_ok=True)
    wanted = list(cases())
    names = {c["name"] for c in wanted}
    for old in OUT.glob("*.png"):
        if not missing or old.stem not in names:
            old.unlink()
    for old in OUT.glob("inputs/*.png"):
        old.unlink()
    used = {c[key] for c in wanted for key in ("init", "mask") if key in c}
    images = {name: image for name, image in inputs() if name in used}
    for name, image in images.items():
        image.save(OUT / "inputs" / f"{name}.png", optimize=True)
    torch.set_grad_enabled(False)
    for model in MODELS:
        reference = Reference(model)
        for c in (c for c in wanted if c["model"] == model and not (OUT / f"{c['name']}.png").exists()):
            start = time.perf_counter()
            make(reference, c, images).save(OUT / f"{c['name']}.png", optimize=True)
            print(c["name"], f"{time.perf_counter() - start:.1f} s", flush=True)
    (OUT / "cases.json").write_text(json.dumps(wanted, indent=1) + "\n")
    (OUT / "PROVENANCE.md").write_text(
        "# Pictures from pictures, and with a refiner\n\nMade by `python tools/reference/modes.py` with "
        f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        "fp32 on CPU; each picture's generator is torch.Generator('cpu').manual_seed(seed), see cases.json.\n"
    )


if __name__ == "__main__":
    main()
