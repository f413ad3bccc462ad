"""LoRA files of every family and every trainer's names, what they change, and the pictures that they make.

    python tools/reference/lora.py            writes test/golden/lora/

deltas.safetensors holds single modules, changed by LyCORIS' own code; names-*.safetensors one change under each spelling;
the other files are what the pictures of cases.json are made with: by diffusers and peft where these can read them, else
by adding the formulas of lora_families.py (which are held against LyCORIS first) to the weights.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import diffusers
import lycoris
import peft
import torch
import transformers
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers, _maybe_map_sgm_blocks_to_diffusers
from diffusers.utils import convert_state_dict_to_diffusers
from lycoris.functional.lokr import kron_weight
from lycoris.modules import FullModule, IA3Module, LoConModule, LohaModule, NormModule
from peft import LoraConfig, get_peft_model_state_dict
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from lora_families import delta, make, randn, with_dora
from prompt_embeds import encode_pair
from schedulers import from_config

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/golden/lora"
MODELS = {"tiny-a": ROOT / "test/golden/models/tiny-a", "tiny-b": ROOT / "test/golden/models/tiny-b", "pocket": ROOT / "test/golden/models/pocket"}
NETWORKS = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}
PROMPT = "a red apple on a light blue background"


# 1. single modules, by LyCORIS


def lycoris_merged(layer, parts):
    """Weight and bias that LyCORIS makes of a layer."""
    get = parts.get
    if "lora_up.weight" in parts:
        kind, keys = LoConModule, ("lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "dora_scale")
    elif "hada_w1_a" in parts:
        kind, keys = LohaModule, ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha", "dora_scale")
    elif "lokr_w1" in parts or "lokr_w1_a" in parts:
        # Not by its module, which takes a Tucker file's sizes for its rank.
        keys = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        return layer.weight + kron_weight(*map(get, keys), scale=1.0).reshape(layer.weight.shape), None
    elif "diff" in parts:
        kind, keys = FullModule, ("diff", "diff_b")
    elif "w_norm" in parts:
        kind, keys = NormModule, ("w_norm", "b_norm")
    else:
        module = IA3Module("m", layer, 1, train_on_input=bool(parts["on_input"]))
        module.weight.data.copy_(parts["weight"])
        return module.get_merged_weight(shape=layer.weight.shape)
    values = {key: get(key) for key in keys}
    if "dora_scale" in parts:
        # It makes a place for lengths of rows, whatever the file has.
        values["dora_scale"] = torch.ones(layer.weight.shape[0], *[1] * (layer.weight.dim() - 1))
    module = kind.make_module_from_state_dict("m", layer, *values.values())
    if "dora_scale" in parts:
        module.wd_on_out = parts["dora_scale"].shape[0] == layer.weight.shape[0]
        module.dora_scale = torch.nn.Parameter(parts["dora_scale"])
    return module.get_merged_weight(shape=layer.weight.shape)


LAYERS = {
    "linear": lambda: torch.nn.Linear(24, 40),
    "conv": lambda: torch.nn.Conv2d(8, 12, 3, padding=1),
    "conv1x1": lambda: torch.nn.Conv2d(8, 12, 1),
    "norm": lambda: torch.nn.LayerNorm(24),
}
FAMILIES = {
    "linear": ["lora", "loha", "lokr-whole", "lokr-one", "lokr-both", "full", "ia3-out", "ia3-in"],
    "conv": ["lora", "tucker", "loha", "loha-tucker", "lokr-whole", "lokr-one", "lokr-tucker", "full", "ia3-out", "ia3-in"],
    "conv1x1": ["lora", "loha", "lokr-one", "full"],
    "norm": ["norm"],
}


def deltas():
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for kind, families in FAMILIES.items():
        for family, axis in [(f, None) for f in families] + [(f, a) for f in ("lora", "loha") for a in ("out", "in") if f in families]:
            torch.manual_seed(2)
            layer = LAYERS[kind]()
            # Merging, LyCORIS counts the scale of a LoKr or LoHa twice; training it does not.
            alpha = 2.0 if family.startswith("lo") and family != "lora" else 1.5
            parts = make(family, layer.weight.data, generator, rank=2, alpha=alpha)
            if family == "full":
                parts["diff_b"] = randn(generator, *layer.bias.shape)
            if axis:
                parts = with_dora(parts, layer.weight.data, generator, axis)
            weight, bias = lycoris_merged(layer, parts)
            change = (weight - layer.weight).detach().double()
            own = delta(parts, layer.weight.data)
            error = (own - change).norm() / change.norm()
            assert error < 1e-6, (kind, family, axis, error)
            name = f"{kind}-{family}" + (f"-dora-{axis}" if axis else "")
            tensors |= {f"{name}/file/m.{suffix}": value for suffix, value in parts.items()}
            tensors |= {f"{name}/weight": layer.weight.data, f"{name}/delta": own.float()}
            if family == "full":
                assert torch.allclose(bias - layer.bias, parts["diff_b"], atol=1e-6)
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, OUT / "deltas.safetensors")


# 2. names


def ldm_names():
    """diffusers' path of a UNet module of tiny-b → its path in a single file."""
    rows = json.loads((ROOT / "test/golden/models/tiny-b-single-file.json").read_text())
    names = {}
    for key, _, _, component, targets in (row[:5] for row in rows):
        if component == "unet" and key.endswith(".weight"):
            names[targets[0].removesuffix(".weight")] = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
    return names


def modules_of(pipe, kinds=(torch.nn.Linear, torch.nn.Conv2d)):
    """(network, diffusers' path with text_model., module) of everything that a LoRA can change."""
    for network in NETWORKS:
        for path, module in getattr(pipe, network).named_modules():
            if isinstance(module, kinds):
                if network != "unet" and not path.startswith(("text_model.", "text_projection")):
                    path = f"text_model.{path}"
                yield network, path, module


def spell(scheme, network, path, ldm):
    """A module's name in one of the spellings."""
    dots = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    if scheme == "kohya":
        return f"lora_{NETWORKS[network]}_" + (ldm[path] if network == "unet" else path).replace(".", "_")
    if scheme == "onetrainer":
        return f"lora_{NETWORKS[network]}_" + path.replace(".", "_")
    if scheme in ("diffusers", "peft", "peft-adapter"):
        return f"{network}.{path}"
    if scheme == "flat-text":
        return f"{network}.{path.removeprefix('text_model.') if network != 'unet' else path}"
    if scheme == "comfy":
        return f"diffusion_model.{ldm[path]}" if network == "unet" else f"text_encoders.{dots[network]}.transformer.{path}"
    if scheme == "processors":
        module, _, last = path.removesuffix(".0").rpartition(".")
        if network == "unet":
            return f"unet.{module}.processor.{last}_lora"
        return f"{network}.{module}.to_{last.removesuffix('_proj')}_lora"
    if network != "unet":
        return None
    if scheme == "lycoris":
        return f"lycoris_{path.replace('.', '_')}"
    if scheme == "raw-peft":
        return f"base_model.model.{path}"
    if scheme == "slider":
        return f"diffusion_model_{ldm[path].replace('.', '_')}"
    raise ValueError(scheme)


SUFFIXES = {
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "onetrainer": ("lora_down.weight", "lora_up.weight"),
    "diffusers": ("lora.down.weight", "lora.up.weight"),
    "flat-text": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    "peft": ("lora_A.weight", "lora_B.weight"),
    "peft-adapter": ("lora_A.default.weight", "lora_B.default.weight"),
    "comfy": ("lora_down.weight", "lora_up.weight"),
    "processors": ("down.weight", "up.weight"),
    "lycoris": ("lora_down.weight", "lora_up.weight"),
    "raw-peft": ("lora_A", "lora_B"),
    "slider": ("lora_down.weight", "lora_up.weight"),
}


def names(pipe, ldm):
    """One change, alpha = rank, under every spelling; and which modules it changes."""
    generator = torch.Generator().manual_seed(3)
    chosen = {}
    for network, path, module in modules_of(pipe):
        if network == "unet" and path.startswith(("down_blocks.2", "up_blocks.0")) and ".attentions.0" not in path:
            continue
        if network == "unet" and not path.startswith(("down_blocks.1", "up_blocks.1")) or ".layers.1." in path or path == "text_projection":
            parts = make("lora", module.weight.data, generator, rank=1, alpha=1.0)
            chosen[network, path] = (parts["lora_down.weight"], parts["lora_up.weight"])
    listed = {}
    for scheme, (down, up) in SUFFIXES.items():
        tensors = {}
        listed[scheme] = []
        for (network, path), values in chosen.items():
            attention = ".attn" in path or ".self_attn." in path
            if scheme == "processors" and not attention:
                continue
            name = spell(scheme, network, path, ldm)
            if name is None:
                continue
            listed[scheme].append(f"{network} {path}")
            tensors |= {f"{name}.{suffix}": value.half().contiguous() for suffix, value in zip((down, up), values)}
            if scheme in ("kohya", "onetrainer", "comfy", "lycoris", "slider"):
                tensors[f"{name}.alpha"] = torch.tensor(1.0)
        save_file(tensors, OUT / f"names-{scheme}.safetensors")
    (OUT / "names.json").write_text(json.dumps(listed, indent=0) + "\n")


def sdxl_names():
    """kohya's name → diffusers' path by diffusers' own mapping, for some modules of every block of SDXL's UNet."""
    inner = ["proj_in", "transformer_blocks_0_attn1_to_q", "transformer_blocks_0_attn2_to_out_0", "transformer_blocks_1_ff_net_0_proj"]
    resnet = ["in_layers_2", "out_layers_3", "emb_layers_1", "skip_connection"]
    modules = [f"middle_block_1_{name}" for name in inner] + [f"middle_block_{at}_{name}" for at in (0, 2) for name in resnet[:3]]
    for side, count, attended, samplers in (
        ("input", 9, (4, 5, 7, 8), {3: "0_op", 6: "0_op"}),
        ("output", 9, (0, 1, 2, 3, 4, 5), {2: "2_conv", 5: "2_conv"}),
    ):
        for at in range(1 if side == "input" else 0, count):
            block = f"{side}_blocks_{at}"
            modules += [f"{block}_1_{name}" for name in inner if at in attended]
            if not (side == "input" and at in samplers):
                # A shortcut is where the width changes: on the way up at every resnet.
                modules += [f"{block}_0_{name}" for name in resnet if name != "skip_connection" or side == "output" or at in (4, 7)]
            if at in samplers:
                modules.append(f"{block}_{samplers[at]}")
    numbered = {f"lora_unet_{name}": float(index) for index, name in enumerate(modules)}
    tensors = {f"{name}.{part}.weight": torch.tensor([value]) for name, value in numbered.items() for part in ("lora_down", "lora_up")}
    tensors |= {f"{name}.alpha": torch.tensor(1.0) for name in numbered}
    mapped = _maybe_map_sgm_blocks_to_diffusers(tensors, SimpleNamespace(layers_per_block=2))
    found, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    paths = {value.item(): key.removeprefix("unet.").removesuffix(".lora.up.weight") for key, value in found.items() if key.endswith("up.weight")}
    paths = {value: path.replace(".processor.", ".").replace(".to_q_lora.up.weight", ".to_q").replace(".to_out_lora.up.weight", ".to_out.0") for value, path in paths.items()}
    (OUT / "sdxl-names.json").write_text(json.dumps({name: paths[value] for name, value in numbered.items()}, indent=0) + "\n")


# 3. files for pictures


def save_named(file, scheme, ldm, changes, metadata=None):
    tensors = {}
    for (network, path), parts in changes.items():
        name = spell(scheme, network, path, ldm)
        tensors |= {f"{name}.{suffix}": value.contiguous() for suffix, value in parts.items()}
    save_file(tensors, OUT / f"{file}.safetensors", metadata)


def changes_of(pipe, choose, generator, size):
    """(network, path) → parts, of the families that `choose` names for each module; None leaves it alone."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
    changes = {}
    for network, path, module in modules_of(pipe, kinds):
        family = choose(network, path, module)
        if family is None:
            continue
        family, _, axis = family.partition("+")
        parts = make(family, module.weight.data, generator, rank=2, alpha=1.5, size=size)
        if family == "full" and module.bias is not None:
            parts["diff_b"] = randn(generator, *module.bias.shape, size=0.1 * size)
        if axis:
            parts = with_dora(parts, module.weight.data, generator, axis)
        # Stored as fp16, as most files are, and meant as stored.
        changes[network, path] = {k: v if k in ("alpha", "on_input") else v.half() for k, v in parts.items()}
    return changes


def is_norm(module):
    return isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm))


def is_kernel(module):
    return isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1)


def cycle(*families):
    """The families in turn."""
    state = {"at": -1}

    def choose(network, path, module):
        if is_norm(module):
            return None
        state["at"] += 1
        return families[state["at"] % len(families)]

    return choose


def only(choose, *places):
    return lambda network, path, module: choose(network, path, module) if any(p in f"{network}.{path}" for p in places) else None


CHOICES = {
    "lora": lambda network, path, module: None if is_norm(module) else "lora",
    "tucker": lambda network, path, module: "tucker" if is_kernel(module) else None,
    "loha": lambda network, path, module: None if is_norm(module) else "loha-tucker" if is_kernel(module) else "loha",
    "lokr": lambda network, path, module: None if is_norm(module) else "lokr-tucker" if is_kernel(module) else cycle_lokr(network, path, module),
    "dora": cycle("lora+out", "lora+in", "loha+out"),
    "full": lambda network, path, module: "norm" if is_norm(module) else "full",
    "ia3": cycle("ia3-out", "ia3-in"),
}
cycle_lokr = cycle("lokr-whole", "lokr-one", "lokr-both")
MID = ("unet.mid_block", "unet.down_blocks.1.attentions", "unet.down_blocks.0.downsamplers", "unet.up_blocks.0.upsamplers", "text_encoder.text_model.encoder.layers.0", "text_encoder_2.text_model.encoder.layers.0")

# file → model, spelling, families, places, size
FILES = {
    "a-lora": ("tiny-a", "onetrainer", "lora", ("unet", "text_encoder"), 0.3),
    "a-loha": ("tiny-a", "onetrainer", "loha", ("unet", "text_encoder"), 0.3),
    "b-lora": ("tiny-b", "kohya", "lora", MID, 0.5),
    "b-tucker": ("tiny-b", "kohya", "tucker", ("unet.mid_block", "samplers"), 0.5),
    "b-loha": ("tiny-b", "kohya", "loha", MID, 0.5),
    "b-lokr": ("tiny-b", "kohya", "lokr", MID, 0.5),
    "b-dora": ("tiny-b", "kohya", "dora", MID, 0.5),
    "b-full": ("tiny-b", "kohya", "full", ("unet.mid_block.attentions.0.transformer_blocks.0", "unet.mid_block.resnets.0.norm", "text_encoder.text_model.encoder.layers.0"), 0.5),
    "b-ia3": ("tiny-b", "kohya", "ia3", MID, 0.3),
    "pocket-lora": ("pocket", "diffusers", "lora", (".attn", ".self_attn."), 1),
    "pocket-lokr": ("pocket", "onetrainer", "lokr", ("unet.mid_block", "unet.up_blocks.1"), 1),
}


def peft_file(pipe, name, dora):
    """A file of diffusers' own saver, with alphas in its metadata."""
    torch.manual_seed(5)
    targets = {"unet": ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "net.2"], "text_encoder": ["q_proj", "fc1"], "text_encoder_2": ["v_proj", "fc2"]}
    if dora:
        # diffusers does not read back the lengths of text encoders.
        targets = {"unet": targets["unet"]}
    states, configs = {}, {}
    for network, modules in targets.items():
        model = getattr(pipe, network)
        config = LoraConfig(r=2, lora_alpha=3 + len(modules), target_modules=modules, use_dora=dora, use_rslora=network == "text_encoder", init_lora_weights=False)
        model.add_adapter(config, name)
        for key, parameter in model.named_parameters():
            if ".lora_" in key:
                parameter.data = (parameter.data * (1 + 0.2 * torch.randn_like(parameter))) if "magnitude" in key else torch.randn_like(parameter) * 0.2
        states[network] = get_peft_model_state_dict(model, adapter_name=name)
        configs[network] = model.peft_config[name]
    StableDiffusionXLPipeline.save_lora_weights(
        OUT,
        **{f"{n}_lora_layers": states[n] if n == "unet" else convert_state_dict_to_diffusers(states[n]) for n in targets},
        **{f"{n}_lora_adapter_metadata": configs[n].to_dict() for n in targets},
        weight_name=f"{name}.safetensors",
    )


# 4. pictures


def picture(pipe, c):
    pipe.scheduler = from_config(c["sampler"], pipe.reference_scheduler_config)
    embeds, negative, pooled, negative_pooled = encode_pair(pipe, PROMPT, "dark")
    return pipe(
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        width=c["width"],
        height=c["height"],
        num_inference_steps=c["steps"],
        guidance_scale=5,
        generator=torch.Generator("cpu").manual_seed(c["seed"]),
    ).images[0]


def case(name, loras, model, size=64, steps=6):
    return dict(name=name, model=model, loras=loras, sampler="K_EULER", width=size, height=size, cfg=5, seed=7, steps=steps, prompt=PROMPT, negative_prompt="dark")


CASES = [
    case("a-lora", {"a-lora": 0.8}, "tiny-a"),
    case("a-loha", {"a-loha": 1}, "tiny-a"),
    case("a-peft", {"a-peft": 0.7}, "tiny-a"),
    case("a-peft-dora", {"a-peft-dora": 1}, "tiny-a"),
    case("a-several", {"a-lora": -0.6, "a-peft": 1.4, "a-loha": 0.5}, "tiny-a"),
    *(case(file, {file: 0.8}, "tiny-b") for file in FILES if file.startswith("b-")),
    case("b-several", {"b-lora": 0.5, "b-lokr": -0.7, "b-dora": 0.6, "b-full": 0.4, "b-ia3": 0.5}, "tiny-b"),
    case("pocket-lora", {"pocket-lora": 1}, "pocket", 256, 8),
    case("pocket-both", {"pocket-lora": 0.6, "pocket-lokr": 0.8}, "pocket", 256, 8),
]


def merge(pipe, changes, strength, bases):
    """Add strength · ΔW of the unchanged weights in place."""
    modules = {(n, p): m for n, p, m in modules_of(pipe, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm))}
    for place, parts in changes.items():
        module = modules[place]
        weight = bases.setdefault((place, "weight"), (module.weight, module.weight.data.clone()))[1]
        module.weight.data += (strength * delta(parts, weight)).float()
        bias = parts.get("diff_b", parts.get("b_norm"))
        if bias is not None:
            bases.setdefault((place, "bias"), (module.bias, module.bias.data.clone()))
            module.bias.data += strength * bias.float()


def difference(a, b):
    to = lambda image: torch.tensor(list(image.getdata()), dtype=torch.float32)
    return (to(a) - to(b)).abs().mean().item()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    diffusers.logging.set_verbosity_error()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    deltas()
    sdxl_names()
    ldm = ldm_names()
    cases = []
    for model, folder in MODELS.items():
        load = lambda: StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        pipe = load()
        pipe.set_progress_bar_config(disable=True)
        pipe.reference_scheduler_config = dict(pipe.scheduler.config)
        if model == "tiny-b":
            names(pipe, ldm)
        if model == "tiny-a":
            for name, dora in (("a-peft", False), ("a-peft-dora", True)):
                peft_file(load(), name, dora)
        files = {}
        for index, (file, (of, scheme, families, places, size)) in enumerate(FILES.items()):
            if of == model:
                files[file] = changes_of(pipe, only(CHOICES[families], *places), torch.Generator().manual_seed(20 + index), size)
                suffixes = {"lora_down.weight": "lora.down.weight", "lora_up.weight": "lora.up.weight"} if scheme == "diffusers" else {}
                renamed = {place: {suffixes.get(k, k): v for k, v in parts.items()} for place, parts in files[file].items()}
                save_named(file, scheme, ldm, renamed)
        plain = picture(pipe, next(c for c in CASES if c["model"] == model))
        for c in (c for c in CASES if c["model"] == model):
            bases = {}
            readable = [name for name in c["loras"] if name not in files]
            for name, strength in c["loras"].items():
                if name in files:
                    merge(pipe, files[name], strength, bases)
            for name in readable:
                pipe.load_lora_weights(OUT, weight_name=f"{name}.safetensors", adapter_name=name)
            if readable:
                pipe.set_adapters(readable, [c["loras"][name] for name in readable])
            image = picture(pipe, c)
            for name in readable:
                pipe.delete_adapters(name)
            if readable:
                pipe.unload_lora_weights()
            for parameter, value in bases.values():
                parameter.data.copy_(value)
            image.save(OUT / f"{c['name']}.png", optimize=True)
            cases.append(c | {"from_plain": round(difference(image, plain), 2)})
            print(c["name"], cases[-1]["from_plain"], flush=True)
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    (OUT / "PROVENANCE.md").write_text(
        "# LoRAs\n\nMade by `python tools/reference/lora.py` with "
        f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}, lycoris-lora 4.1.3, fp32 on CPU; random tensors from generators with the seeds in the script. "
        "`from_plain` in cases.json is the mean distance, in steps of 1/255, from the picture without LoRAs.\n"
    )


if __name__ == "__main__":
    main()
