"""Layers of the networks on small random tensors: `python tools/reference/layers.py` → test/golden/layers/.

One safetensors file. Every case is a prefix: `<case>/w/<state-dict key>` weights, `<case>/x` input (and further named
inputs), `<case>/y` output, all fp32.
"""

import json
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/golden/layers"
SEED = 11

torch.manual_seed(SEED)
torch.set_grad_enabled(False)
cases = {}


def add(case, module, inputs, output):
    if module is not None:
        for key, value in module.state_dict().items():
            cases[f"{case}/w/{key}"] = value
    for name, value in inputs.items():
        cases[f"{case}/{name}"] = value
    cases[f"{case}/y"] = output


def run(case, module, call=None, **inputs):
    module.eval()
    for parameter in module.parameters():
        parameter.normal_(0, parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5)
    add(case, module, inputs, (call or (lambda m, **kw: m(*kw.values())))(module, **inputs))


run("linear", torch.nn.Linear(24, 40), x=torch.randn(6, 24))
run("conv3x3", torch.nn.Conv2d(6, 10, 3, padding=1), x=torch.randn(2, 6, 9, 7))
run("conv3x3-stride2", torch.nn.Conv2d(6, 6, 3, stride=2, padding=1), x=torch.randn(1, 6, 9, 7))
run("conv1x1", torch.nn.Conv2d(6, 10, 1), x=torch.randn(1, 6, 5, 4))
run("conv3x3-stride2-pad-end", torch.nn.Conv2d(6, 6, 3, stride=2), call=lambda m, x: m(F.pad(x, (0, 1, 0, 1))), x=torch.randn(1, 6, 8, 10))
run("group-norm", torch.nn.GroupNorm(4, 16, eps=1e-5), x=torch.randn(2, 16, 5, 7) * 3 + 1)
run("layer-norm", torch.nn.LayerNorm(24, eps=1e-5), x=torch.randn(6, 24) * 3 + 1)
x = torch.linspace(-12, 12, 97)
add("silu", None, {"x": x}, F.silu(x))
add("gelu", None, {"x": x}, F.gelu(x))
add("quick-gelu", None, {"x": x}, x * torch.sigmoid(1.702 * x))
x = torch.randn(1, 3, 4, 5)
add("upsample", None, {"x": x}, F.interpolate(x, scale_factor=2.0, mode="nearest"))
add("upsample-odd", None, {"x": x}, F.interpolate(x, size=(7, 9), mode="nearest"))
run("resnet-default", ResnetBlock2D(in_channels=8, out_channels=16, temb_channels=12, groups=4, eps=1e-5), x=torch.randn(2, 8, 6, 5), temb=torch.randn(2, 12))
run("resnet-scale-shift", ResnetBlock2D(in_channels=8, out_channels=8, temb_channels=12, groups=4, eps=1e-5, time_embedding_norm="scale_shift"), x=torch.randn(2, 8, 6, 5), temb=torch.randn(2, 12))
for name, linear in (("transformer", True), ("transformer-conv-projection", False)):
    run(
        name,
        Transformer2DModel(num_attention_heads=3, attention_head_dim=8, in_channels=24, num_layers=2, cross_attention_dim=20, norm_num_groups=4, use_linear_projection=linear),
        call=lambda m, x, context: m(x, encoder_hidden_states=context).sample,
        x=torch.randn(2, 24, 4, 6),
        context=torch.randn(2, 9, 20),
    )
run(
    "vae-attention",
    Attention(16, heads=1, dim_head=16, eps=1e-6, norm_num_groups=4, residual_connection=True, bias=True, upcast_softmax=True, _from_deprecated_attn_block=True),
    x=torch.randn(1, 16, 5, 4),
)

OUT.mkdir(parents=True, exist_ok=True)
save_file({key: value.float().clone().contiguous() for key, value in cases.items()}, OUT / "layers.safetensors")
(OUT / "PROVENANCE.md").write_text(
    f"# Layers\n\nMade by `python tools/reference/layers.py` with torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, "
    f"torch.manual_seed({SEED}), fp32 on CPU.\n"
)
print(json.dumps({"tensors": len(cases), "bytes": (OUT / "layers.safetensors").stat().st_size}))
