"""Files of torch.save and what they hold as safetensors: each protocol, kind of number and view that the reader knows.

    .venv/bin/python tools/reference/torch_files.py

Writes test/golden/torch-files/*.pt and, beside each, the same tensors by safetensors' own writer.
"""

import collections
import platform
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

FOLDER = Path("test/golden/torch-files")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    dtypes = collections.OrderedDict(
        f32=torch.randn(3, 4),
        f16=torch.randn(5).half(),
        bf16=torch.randn(2, 2).bfloat16(),
        f64=torch.randn(3).double(),
        i64=torch.tensor([-1, 2**62]),
        i32=torch.tensor([-5, 7], dtype=torch.int32),
        i16=torch.tensor([-300], dtype=torch.int16),
        i8=torch.tensor([-3, 4], dtype=torch.int8),
        u8=torch.tensor([[1], [255]], dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 4),
    )
    for protocol in (2, 3, 4, 5):
        write(f"protocol-{protocol}", dtypes, dict(dtypes), pickle_protocol=protocol)

    base = torch.randn(6, 8)
    wide = torch.tensor([[2**62 + 1, -1], [3, 0x7FF4000000000001]])
    views = {
        "whole": base,
        "part": base[1:3, 2:5],
        "turned": base.t(),
        "row": base[4],
        "last": base[5, 7],
        "wide": wide.t(),
        "half": base.half()[:, ::2],
        "bytes": torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(base[:, 0]),
    }
    write("views", views, views)

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    state = module.state_dict()
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    whole = {"state_dict": state, "epoch": 3, "rate": 1e-3, "optimizer": optimiser.state_dict(), "done": None}
    write("training", whole, dict(state))
    write("nested", {"a": [{"b": base[0]}, {"b": base[1]}], "c": "text"}, {"a.0.b": base[0], "a.1.b": base[1]})

    torch.save({"x": base}, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    (FOLDER / "PROVENANCE.md").write_text(
        "# Where these files come from\n\n"
        "`tools/reference/torch_files.py`, seed 0, written with\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, safetensors {safetensors.__version__}.\n"
    )


def write(name: str, value: object, tensors: dict[str, torch.Tensor], **options: int) -> None:
    torch.save(value, FOLDER / f"{name}.pt", **options)
    # safetensors takes no two views of one storage.
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, FOLDER / f"{name}.safetensors")


if __name__ == "__main__":
    main()
