"""Whole pictures by diffusers in fp32: the reference that `bench/parity.ts` and the tests compare with.

    python tools/reference/parity.py                  the tests' subset → test/golden/parity/
    python tools/reference/parity.py --all FOLDER     every case → FOLDER (about 500 MB)

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
from schedulers import SAMPLERS as SCHEDULERS

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"tiny-a": "test/golden/models/tiny-a", "tiny-b": "test/golden/models/tiny-b", "pocket": "models/pocket"}
SIZES = {
    "tiny-a": [(64, 64), (96, 64)],
    "tiny-b": [(1024, 1024), (1344, 768), (640, 1536)],
    "pocket": [(1024, 1024), (1344, 768), (640, 1536)],
}
SAMPLERS = ["DDIM", "K_EULER", "K_EULER_ANCESTRAL", "DPM_SOLVER_MULTISTEP", "DPM_PLUS_PLUS_2M_KARRAS"]
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
    for index, sampler in enumerate(SAMPLERS):
        yield case("tiny-a", sampler, *SIZES["tiny-a"][index % 2], (1, 7, 12)[index % 3], 1 + index)
        yield case("tiny-a", sampler, 64, 64, 12, 7, steps=30)
        yield case("tiny-b", sampler, *((96, 64), (72, 104))[index % 2], (12, 7)[index % 2], 4294967295)
        yield case("pocket", sampler, *SIZES["pocket"][index % 3], (7, 12, 1)[index % 3], 1)
    yield case("pocket", "DDIM", 1024, 1024, 12, 7, steps=30)
    yield from (c for c in prompt_cases() if c["model"] == "tiny-a")
    yield next(c for c in prompt_cases() if c["model"] == "pocket" and c["prompt"] == WEIGHTED)


def make(pipe, c):
    scheduler, options = SCHEDULERS[c["sampler"]]
    pipe.scheduler = scheduler.from_config(pipe.reference_scheduler_config, **options)
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
        generator=torch.Generator("cpu").manual_seed(c["seed"]),
    ).images[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", metavar="FOLDER", type=Path)
    folder = parser.parse_args().all
    out = folder or ROOT / "test/golden/parity"
    out.mkdir(parents=True, exist_ok=True)
    cases = list(all_cases() if folder else test_cases())
    torch.set_grad_enabled(False)
    for model, path in MODELS.items():
        pipe = StableDiffusionXLPipeline.from_pretrained(ROOT / path, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipe.reference_scheduler_config = dict(pipe.scheduler.config)
        for c in (c for c in cases if c["model"] == model):
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
