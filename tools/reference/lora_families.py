"""Random changes of every family for one module, and what they add to its weight, by the formulas of the papers.

lora.py checks the formulas against LyCORIS' own modules before it uses them.
"""

import torch


def randn(generator, *shape, size=1.0):
    return torch.randn(*shape, generator=generator) * size


def factor_pair(number):
    """Two factors of a number, the smaller one first, as near to each other as they can be."""
    small = max(f for f in range(1, int(number**0.5) + 1) if number % f == 0)
    return small, number // small


def make(family, weight, generator, rank=2, alpha=1.0, size=1.0):
    """Suffix → tensor. Sizes are such that the change is a fraction of a weight of unit variance a channel."""
    out, *rest = weight.shape
    kernel = list(rest[1:])
    inputs = rest[0] if rest else 1
    count = inputs * int(torch.tensor(kernel).prod()) if kernel else inputs
    rand = lambda *shape, s=1.0: randn(generator, *shape, size=s)
    small = size * weight.std().item()
    if family == "lora":
        down = rand(rank, inputs, *kernel)
        up = rand(out, rank, *([1, 1] if kernel else []), s=small)
        return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    if family == "tucker":
        down, up = rand(rank, inputs, 1, 1), rand(out, rank, 1, 1, s=small)
        return {"lora_down.weight": down, "lora_mid.weight": rand(rank, rank, *kernel), "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    if family == "loha":
        parts = {"hada_w1_a": rand(out, rank, s=small), "hada_w1_b": rand(rank, count), "hada_w2_a": rand(out, rank), "hada_w2_b": rand(rank, count)}
        return parts | {"alpha": torch.tensor(alpha)}
    if family == "loha-tucker":
        parts = {f"hada_w{n}_a": rand(rank, out, s=small if n == 1 else 1) for n in (1, 2)} | {f"hada_w{n}_b": rand(rank, inputs) for n in (1, 2)}
        return parts | {f"hada_t{n}": rand(rank, rank, *kernel) for n in (1, 2)} | {"alpha": torch.tensor(alpha)}
    if family.startswith("lokr"):
        (a, b), (c, d) = factor_pair(out), factor_pair(inputs)
        parts = {"lokr_w1_a": rand(a, rank), "lokr_w1_b": rand(rank, c)} if family == "lokr-both" else {"lokr_w1": rand(a, c)}
        if family == "lokr-whole":
            parts |= {"lokr_w2": rand(b, d, *kernel, s=small)}
        elif family == "lokr-tucker":
            parts |= {"lokr_w2_a": rand(rank, b, s=small), "lokr_w2_b": rand(rank, d), "lokr_t2": rand(rank, rank, *kernel)}
        else:
            parts |= {"lokr_w2_a": rand(b, rank, s=small), "lokr_w2_b": rand(rank, d * count // inputs)}
        return parts | {"alpha": torch.tensor(alpha)}
    if family == "full":
        return {"diff": rand(*weight.shape, s=small)}
    if family == "norm":
        return {"w_norm": rand(out, s=0.3 * size), "b_norm": rand(out, s=0.3 * size)}
    if family in ("ia3-out", "ia3-in"):
        on_input = family == "ia3-in"
        channels = inputs if on_input else out
        shape = [1, channels, 1, 1] if kernel else [channels]
        return {"weight": rand(*shape, s=size), "on_input": torch.tensor(int(on_input))}
    raise ValueError(family)


def with_dora(parts, weight, generator, axis):
    """Lengths near those of the weight's rows or columns."""
    dims = [d for d in range(weight.dim()) if d != (0 if axis == "out" else 1)]
    lengths = weight.pow(2).sum(dims, keepdim=True).sqrt()
    return parts | {"dora_scale": lengths * (1 + 0.3 * randn(generator, *lengths.shape))}


def delta(parts, weight):
    """What is added to the weight at strength 1, in fp64."""
    p = {k: v.double() for k, v in parts.items()}
    w = weight.double()
    scale = p["alpha"].item() if "alpha" in p else 1.0
    if "lora_mid.weight" in p:
        up, mid, down = p["lora_up.weight"][:, :, 0, 0], p["lora_mid.weight"], p["lora_down.weight"][:, :, 0, 0]
        change = torch.einsum("om,mnkl,ni->oikl", up, mid, down) * scale / len(down)
    elif "lora_up.weight" in p:
        up, down = p["lora_up.weight"].flatten(1), p["lora_down.weight"].flatten(1)
        change = (up @ down).reshape(w.shape) * scale / len(down)
    elif "hada_t1" in p:
        halves = [torch.einsum("ijkl,io,jc->ockl", p[f"hada_t{n}"], p[f"hada_w{n}_a"], p[f"hada_w{n}_b"]) for n in (1, 2)]
        change = halves[0] * halves[1] * scale / len(p["hada_w1_b"])
    elif "hada_w1_a" in p:
        change = ((p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])).reshape(w.shape) * scale / len(p["hada_w1_b"])
    elif "lokr_w1" in p or "lokr_w1_a" in p:
        w1 = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
        if "lokr_t2" in p:
            w2 = torch.einsum("ijkl,ib,jd->bdkl", p["lokr_t2"], p["lokr_w2_a"], p["lokr_w2_b"])
        else:
            w2 = p["lokr_w2"] if "lokr_w2" in p else p["lokr_w2_a"] @ p["lokr_w2_b"]
        w2 = w2.reshape(w.shape[0] // w1.shape[0], w.shape[1] // w1.shape[1], *w.shape[2:]).contiguous()
        rank = len(p["lokr_w2_b"]) if "lokr_w2_b" in p else len(p["lokr_w1_b"]) if "lokr_w1_b" in p else scale
        change = torch.kron(w1.reshape(*w1.shape, *[1] * (w.dim() - 2)), w2) * scale / rank
    elif "on_input" in p:
        factor = p["weight"].flatten()
        return w * (factor.reshape(1, -1, *[1] * (w.dim() - 2)) if p["on_input"] else factor.reshape(-1, *[1] * (w.dim() - 1)))
    elif "w_norm" in p:
        return p["w_norm"]
    else:
        change = p["diff"]
    if "dora_scale" not in p:
        return change
    lengths = p["dora_scale"]
    dims = [d for d in range(w.dim()) if d != (0 if lengths.shape[0] == w.shape[0] else 1)]
    norm = (w + change).pow(2).sum(dims, keepdim=True).sqrt() + torch.finfo(torch.float32).eps
    return (w + change) * (lengths.reshape(norm.shape) / norm) - w
