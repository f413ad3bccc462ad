"""Golden values of torch.randn on the CPU: `python tools/reference/randn.py` writes test/golden/randn/."""

import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import torch

SEEDS = [0, 1, 42, 2748252853, 4294967295, 4294967296 + 7, 2**63 + 12345]
SHAPES = [[1], [2], [3], [15], [16], [17], [31], [32], [100], [1, 4, 8, 8]]
# Calls on one generator: odd counts leave a cached value behind, and the long path must neither use nor drop it.
SEQUENCES = [
    [[3], [5], [16], [1], [2], [17], [1], [1, 4, 8, 8], [1]],
    [[1, 4, 8, 8], [1, 4, 8, 8], [1, 4, 8, 8]],
    [[1]] * 7,
    [[17], [15], [33]],
]
# One SDXL picture's first latents and one more draw, kept as a hash of the little-endian fp32 bytes.
HASHED = [[1, 4, 128, 128], [1, 4, 128, 128]]


def decimals(values: torch.Tensor) -> list[float]:
    """fp32 values as the shortest decimals that read back exactly."""
    return [float(str(value)) for value in values.flatten().numpy().astype(np.float32)]


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def main() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in ("AVX2", "AVX512"):
        raise SystemExit(f"torch runs with {capability} kernels here; the fixture is of its AVX2 kernel")
    cases = []
    for seed in SEEDS:
        for shape in SHAPES:
            cases.append({"seed": str(seed), "calls": [{"shape": shape, "values": decimals(torch.randn(shape, generator=generator(seed)))}]})
    for seed in SEEDS[:3]:
        for sequence in SEQUENCES:
            source = generator(seed)
            cases.append({"seed": str(seed), "calls": [{"shape": s, "values": decimals(torch.randn(s, generator=source))} for s in sequence]})
    hashes = []
    for seed in SEEDS:
        source = generator(seed)
        digests = [hashlib.sha256(torch.randn(s, generator=source).numpy().tobytes()).hexdigest() for s in HASHED]
        hashes.append({"seed": str(seed), "calls": [{"shape": s, "sha256": d} for s, d in zip(HASHED, digests)]})

    folder = Path("test/golden/randn")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "values.json", "w") as file:
        json.dump({"cases": cases, "hashes": hashes}, file, separators=(",", ":"))
        file.write("\n")
    (folder / "PROVENANCE.md").write_text(
        "# torch.randn on the CPU\n\n"
        "Made by `python tools/reference/randn.py` with "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, numpy {np.__version__}, on x64 with AVX2 kernels.\n"
        f"Seeds: {', '.join(map(str, SEEDS))}. fp32, one `torch.Generator('cpu')` a case.\n"
    )


main()
