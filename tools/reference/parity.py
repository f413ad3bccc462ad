"""Whole pictures by diffusers in fp32: the reference that `bench/parity.ts` and the tests compare with.

    python tools/reference/parity.py                  the tests' subset → test/golden/parity/
    python tools/reference/parity.py --all FOLDER     every case → FOLDER (about 2 GB)
    python tools/reference/parity.py --missing        only pictures that are not there yet; also with --all

Writes `<case>.png` and `cases.json` with what each picture was made from. Prompts are embedded by prompt_embeds.py
(weights, long prompts); for plain ones that equals the pipeline's own encoding.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionXLPipeline

sys.path.insert(0, str(Path(__file__).parent))
from prompt_embeds import encode_pair
from schedulers import SAMPLERS as ALL_SAMPLERS, BrownianMotion, from_config

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"tiny-a": "test/golden/models/tiny-a", "tiny-b": "test/golden/models/tiny-b", "pocket": "test/golden/models/pocket"}
# The model that ships is trained again and again; a few pictures are enough to tell that it is read as diffusers reads it.
MODELS["shipped"] = "models/pocket"
SIZES = {
    "tiny-a": [(64, 64), (96, 64)],
    "tiny-b": [(1024, 1024), (1344, 768), (640, 1536)],
    "pocket": [(1024, 1024), (1344, 768), (640, 1536)],
}
SAMPLERS = list(ALL_SAMPLERS)
# The first ones, which the tests compare in more ways than the others.
FIRST = ["DDIM", "K_EULER", "K_EULER_ANCESTRAL", "DPM_SOLVER_MULTISTEP", "DPM_PLUS_PLUS_2M_KARRAS"]
PROMPT = "a red apple on a light blue background"
NEGATIVE = "a green dog, (dark:1.3)"
WEIGHTED = "a ((red)) apple and a (yellow:0.6) banana on a [light] blue background"
LONG = "two cats, a green tree, a house, and a purple balloon on a pink background, " * 8


def case(model, sampler, width, height, cfg, seed, steps=10, **more):
    name = f"{model}-{width}x{height}-{sampler.lower()}-cfg{cfg}-seed{seed}-{steps}"
    name += "".join(f"-{key}" for key in more)
    return dict(name=name, model=model, sampler=sampler, width=width, height=height, cfg=cfg, seed=seed, steps=steps, prompt=PROMPT) | more


def all_cases():
    for model, sizes in SIZES.items():
        for sampler in SAMPLERS:
            for width, height in sizes:
                for cfg in (1, 7, 12):
                    for seed in (1, 4294967295):
                        yield case(model, sampler, width, height, cfg, seed)
            yield case(model, sampler, *sizes[0], 12, 7, steps=30)
    yield from prompt_cases()


def prompt_cases():
    for model in ("tiny-a", "pocket"):
        size = SIZES[model][0]
        yield case(model, "DDIM", *size, 7, 3, negative_prompt=NEGATIVE)
        yield case(model, "DDIM", *size, 7, 3, negative_prompt="", negative_prompt_2=NEGATIVE)
        yield case(model, "K_EULER", *size, 7, 3, prompt=WEIGHTED, negative_prompt=NEGATIVE)
        yield case(model, "K_EULER", *size, 7, 3, prompt_2="a green tree on a yellow background")
        yield case(model, "DDIM", *size, 7, 3, prompt=LONG, negative_prompt=NEGATIVE)
        yield case(model, "DDIM", *size, 7, 3, clip_skip=1, negative_prompt=NEGATIVE)


def test_cases():
    """Every sampler, scale, model and kind of size once, small enough to keep in the repository."""
    for index, sampler in enumerate(FIRST):
        yield case("tiny-a", sampler, *SIZES["tiny-a"][index % 2], (1, 7, 12)[index % 3], 1 + index)
        yield case("tiny-a", sampler, 64, 64, 12, 7, steps=30)
        yield case("tiny-b", sampler, *((96, 64), (72, 104))[index % 2], (12, 7)[index % 2], 4294967295)
        yield case("pocket", sampler, *SIZES["pocket"][index % 3], (7, 12, 1)[index % 3], 1)
    yield case("pocket", "DDIM", 1024, 1024, 12, 7, steps=30)
    for index, sampler in enumerate(s for s in SAMPLERS if s not in FIRST):
        # At 12 this sampler enlarges: the reference's own picture moves by 0.3/255 when its predictions are rounded to fp16.
        cfg = 7 if sampler == "DPM_2_KARRAS" else (7, 12)[index % 2]
        yield case("tiny-a", sampler, 64, 64, cfg, 11 + index)
        yield case("tiny-a", sampler, 64, 64, 5, 40 + index, steps=25)
        yield case("tiny-b", sampler, *((96, 64), (72, 104))[index % 2], (12, 7)[index % 2], 4294967295)
    # Pocket's pictures are large in bytes: a small size for all kinds of methods, the usual one for some.
    for index, sampler in enumerate(("DDPM", "PNDM", "DPM_PLUS_PLUS_2M_SDE", "DPM_SINGLE", "LCM", "LMS", "DPM_2_ANCESTRAL_KARRAS")):
        yield case("pocket", sampler, *((256, 256), (320, 192))[index % 2], (7, 1)[sampler == "LCM"], 5 + index)
    for sampler in ("UNI_PC", "K_HEUN", "DPM_PLUS_PLUS_SDE_KARRAS"):
        yield case("pocket", sampler, 1024, 1024, 7, 2)
    yield from (c for c in prompt_cases() if c["model"] == "tiny-a")
    yield next(c for c in prompt_cases() if c["model"] == "pocket" and c["prompt"] == WEIGHTED)
    yield case("shipped", "DDIM", 1024, 1024, 12, 7, steps=30)
    yield case("shipped", "K_EULER", 1344, 768, 12, 1)


def inject_noise(scheduler, generator):
    """The reference's Brownian tree has a stream of its own; here its increments come from the picture's, as in Sepia."""
    step = scheduler.step

    def step_with_noise(model_output, timestep, sample, **kwargs):
        if scheduler.noise_sampler is None:
            scheduler.noise_sampler = BrownianMotion(generator, sample.shape)
        return step(model_output, timestep, sample, **kwargs)

    scheduler.step = step_with_noise


def make(pipe, c):
    pipe.scheduler = from_config(c["sampler"], pipe.reference_scheduler_config)
    generator = torch.Generator("cpu").manual_seed(c["seed"])
    if type(pipe.scheduler).__name__ == "DPMSolverSDEScheduler":
        inject_noise(pipe.scheduler, generator)
    embeds, negative_embeds, pooled, negative_pooled = encode_pair(
        pipe,
        c["prompt"],
        c.get("negative_prompt"),
        prompt_2=c.get("prompt_2"),
        negative_prompt_2=c.get("negative_prompt_2"),
        clip_skip=c.get("clip_skip"),
    )
    return pipe(
        prompt_embeds=embeds,
        negative_prompt_embeds=negative_embeds,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        width=c["width"],
        height=c["height"],
        num_inference_steps=c["steps"],
        guidance_scale=c["cfg"],
        generator=generator,
    ).images[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", metavar="FOLDER", type=Path)
    parser.add_argument("--missing", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.all
    out = folder or ROOT / "test/golden/parity"
    out.mkdir(parents=True, exist_ok=True)
    cases = list(all_cases() if folder else test_cases())
    torch.set_grad_enabled(False)
    diffusers.logging.set_verbosity_error()
    for model, path in MODELS.items():
        pipe = StableDiffusionXLPipeline.from_pretrained(ROOT / path, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipe.reference_scheduler_config = dict(pipe.scheduler.config)
        for c in (c for c in cases if c["model"] == model):
            if arguments.missing and (out / f"{c['name']}.png").exists():
                continue
            start = time.perf_counter()
            make(pipe, c).save(out / f"{c['name']}.png", optimize=True)
            print(c["name"], f"{time.perf_counter() - start:.1f} s", flush=True)
    (out / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    (out / "PROVENANCE.md").write_text(
        "# Pictures\n\nMade by `python tools/reference/parity.py` with "
        f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        "fp32 on CPU; each picture's generator is torch.Generator('cpu').manual_seed(seed), see cases.json.\n"
    )


if __name__ == "__main__":
    main()
