"""Textual inversions by diffusers: files of random vectors, prompt embeddings and whole pictures in fp32.

    .venv/bin/python tools/reference/inversions.py

Writes test/golden/inversions/: the files, `cases.json`, `<case>.png`, and `embeds.safetensors` with each case's
prompt embeddings. The vectors are loaded by diffusers' own load_textual_inversion, into tokenizers and resized tables.
"""

import json
import platform
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from parity import MODELS, ROOT
from prompt_embeds import encode_pair
from schedulers import from_config

FOLDER = ROOT / "test/golden/inversions"
# Word → its number of vectors.
WORDS = {"zorb": 4, "plim": 1}
NEGATIVE = "a green dog, plim"
CASES = [
    dict(words=["plim"], prompt="a plim apple on a light blue background"),
    dict(words=["zorb"], prompt="a red apple, zorb, on a light blue background"),
    dict(words=["zorb", "plim"], prompt="a zorb on a blue background", negative_prompt=NEGATIVE),
    dict(words=["zorb", "plim"], prompt="a red apple", prompt_2="plim zorb", negative_prompt="", negative_prompt_2="zorb"),
    dict(words=["zorb"], prompt="a (zorb:1.3) apple and a (yellow:0.6) banana", weighted=True),
    dict(words=["zorb", "plim"], prompt="a (plim:0.7) apple, zorb", negative_prompt="((zorb)), dark", weighted=True),
]
SIZES = {"tiny-a": (64, 64), "tiny-b": (96, 64), "pocket": (256, 256)}


def write_vectors(pipe, model):
    """As kohya names them; as far from zero as the tokens are."""
    files = {}
    for index, (word, count) in enumerate(WORDS.items()):
        generator = torch.Generator("cpu").manual_seed(100 + index)
        tensors = {}
        for key, encoder in (("clip_l", pipe.text_encoder), ("clip_g", pipe.text_encoder_2)):
            table = encoder.get_input_embeddings().weight
            tensors[key] = torch.randn(count, table.shape[1], generator=generator) * table.std()
        files[word] = {key: tensor.half() if word == "plim" else tensor for key, tensor in tensors.items()}
        save_file(files[word], FOLDER / f"{model}-{word}.safetensors")
        if word == "zorb":
            # A1111 saves the same with torch.
            torch.save({**files[word], "name": word, "step": 500}, FOLDER / f"{model}-{word}.pt")
    return files


def load(pipe, words, files):
    for word in words:
        for key, encoder, tokenizer in (
            ("clip_l", pipe.text_encoder, pipe.tokenizer),
            ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
        ):
            vectors = files[word][key].float()
            pipe.load_textual_inversion(vectors, token=word, text_encoder=encoder, tokenizer=tokenizer)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    cases, embeds = [], {}
    for model, (width, height) in SIZES.items():
        files = None
        for index, c in enumerate(CASES):
            if model != "tiny-a" and index not in (2, 4):
                continue
            pipe = StableDiffusionXLPipeline.from_pretrained(ROOT / MODELS[model], torch_dtype=torch.float32)
            pipe.set_progress_bar_config(disable=True)
            files = files or write_vectors(pipe, model)
            pipe.scheduler = from_config("K_EULER", dict(pipe.scheduler.config))
            load(pipe, c["words"], files)
            name = f"{model}-{index}"
            texts = {key: c.get(key) for key in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")}
            if c.get("weighted"):
                # Brackets are Sepia's: words become tokens as diffusers makes them.
                converted = {key: text and pipe.maybe_convert_prompt(text, pipe.tokenizer) for key, text in texts.items()}
                parts = encode_pair(pipe, **converted)
            else:
                parts = pipe.encode_prompt(**texts, do_classifier_free_guidance=True)
            embeds |= {f"{name}.{part}": tensor.contiguous() for part, tensor in zip(PARTS, parts)}
            call = dict(zip(ARGUMENTS, parts)) if c.get("weighted") else texts
            picture = pipe(
                **call,
                width=width,
                height=height,
                num_inference_steps=6,
                guidance_scale=7,
                generator=torch.Generator("cpu").manual_seed(index),
            ).images[0]
            picture.save(FOLDER / f"{name}.png", optimize=True)
            cases.append(dict(name=name, model=model, sampler="K_EULER", width=width, height=height, cfg=7, seed=index, steps=6) | c)
            print(name, flush=True)
    save_file(embeds, FOLDER / "embeds.safetensors")
    (FOLDER / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    (FOLDER / "PROVENANCE.md").write_text(
        "# Textual inversions\n\n"
        "Made by `python tools/reference/inversions.py` with "
        f"Python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}, fp32, on a CPU.\n"
        "Vectors: seeds 100 and 101. Pictures: seeds in cases.json.\n"
    )


PARTS = ("positive", "negative", "pooled", "negative_pooled")
ARGUMENTS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")

if __name__ == "__main__":
    main()
