"""The autoencoder: SDXL's AutoencoderKL with factor 32 and 16 latent channels, trained at a quarter of the size.

The encoder's two outer levels are set, not trained: each averages 2 × 2 pixels. So a picture's latents follow from the
picture at a quarter of its size. The decoder's two outer levels are set too: they enlarge a picture four times bilinearly,
up to its border. Training the inner part costs a sixteenth of training the whole.
"""

import hashlib
import json
import random
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from batches import drawn
from outer import BILINEAR, read_head, set_outer
from run import Run, Time, averaged
from scenes import draw, scene

WIDTHS = (16, 16, 32, 48, 64, 96)
LATENTS = 16
FACTOR = 32
# A latent in training is disturbed by this much at most, so that the decoder forgives what the UNet gets wrong.
NOISE = 0.1


def build() -> AutoencoderKL:
    """An untrained autoencoder whose outer levels are set and whose residual branches are silent."""
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=LATENTS, block_out_channels=WIDTHS, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS), up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
        norm_num_groups=4, sample_size=1024, scaling_factor=1.0, force_upcast=False, mid_block_add_attention=False,
    )  # fmt: skip
    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith("conv2") or name.endswith("upsamplers.0.conv"):
                module.weight.mul_(0.1)
                module.bias.zero_()
            if name.endswith("upsamplers.0.conv"):
                for i in range(module.out_channels):
                    module.weight[i, i] += BILINEAR
        outer = vae.encoder
        outer.conv_in.weight.zero_()
        outer.conv_in.bias.zero_()
        for i in range(3):
            outer.conv_in.weight[i, i, 1, 1] = 1
        for block in outer.down_blocks[:2]:
            for resnet in block.resnets:
                resnet.conv2.weight.zero_()
                resnet.conv2.bias.zero_()
            conv = block.downsamplers[0].conv
            conv.weight.zero_()
            conv.bias.zero_()
            for i in range(WIDTHS[0]):
                conv.weight[i, i, :2, :2] = 0.25
    for part in (vae.encoder.conv_in, vae.encoder.down_blocks[0], vae.encoder.down_blocks[1]):
        part.requires_grad_(False)
    return vae


def keep_scales(state: Path) -> None:
    """Note that latents are to be taken as they are: an exported autoencoder has their scaling in its own layers."""
    (state / "scales.json").write_text(json.dumps({"mean": [0.0] * LATENTS, "divisor": [1.0] * LATENTS}))


@torch.no_grad()
def widen(vae: AutoencoderKL, folder: Path) -> None:
    """Start from a trained autoencoder of the same widths with fewer latent channels; the new ones start almost silent.

    Of the encoder's last layers only the means' half is taken: the variances are not used.
    """
    old = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    had = old.config.latent_channels
    own = vae.state_dict()
    for name, weight in old.state_dict().items():
        target = own[name]
        if target.shape == weight.shape:
            target.copy_(weight)
        elif name == "encoder.conv_out.weight" or name == "encoder.conv_out.bias":
            target.mul_(0.3)[:had] = weight[:had]
        elif name == "decoder.conv_in.weight":
            target.mul_(0.3)[:, :had] = weight
        elif name == "quant_conv.weight" or name == "post_quant_conv.weight":
            target.copy_(torch.eye(len(target))[:, :, None, None])
            target[:had, :had] = weight[:had, :had]
        elif name == "quant_conv.bias" or name == "post_quant_conv.bias":
            target.zero_()[:had] = weight[:had]
        else:
            raise SystemExit(f"{folder}: {name} has shape {tuple(weight.shape)}, expected {tuple(target.shape)}")


def encode(vae: AutoencoderKL, quarter: torch.Tensor) -> torch.Tensor:
    """A picture at a quarter of its size, (B, 3, H/4, W/4) in -1..1 → the latents' means (B, 16, H/32, W/32)."""
    e = vae.encoder
    h = F.pad(quarter, (0, 0, 0, 0, 0, WIDTHS[1] - 3))
    for block in e.down_blocks[2:]:
        h = block(h)
    h = e.conv_out(e.conv_act(e.conv_norm_out(e.mid_block(h))))
    return vae.quant_conv(h)[:, :LATENTS]


def decode_inner(vae: AutoencoderKL, z: torch.Tensor) -> torch.Tensor:
    """Latents → features (B, 32, H/4, W/4)."""
    d = vae.decoder
    h = d.mid_block(d.conv_in(vae.post_quant_conv(z)))
    for block in d.up_blocks[:3]:
        h = block(h)
    for resnet in d.up_blocks[3].resnets:
        h = resnet(h, None)
    return h


def colours() -> nn.Conv2d:
    """The colours as a linear function of the inner features, for training at a quarter of the size."""
    return nn.Conv2d(32, 3, 1)


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal to noise of each picture in dB, for values in -1..1."""
    return -10 * torch.log10(((a.clamp(-1, 1) - b) ** 2).mean((1, 2, 3)) / 4)


@cache
def home(state: Path) -> Path:
    """The folder of everything that depends on the trained encoder, named after its weights: latents, decoder, text, UNet.

    A further trained encoder gets a folder of its own, so that nothing is mixed up with what an older one made.
    """
    vae, head = build(), colours()
    averaged(state / "vae.pt", {"vae": vae, "head": head})
    parts = [p.detach().numpy().tobytes() for part in (vae.encoder, vae.quant_conv) for p in part.parameters()]
    return state / f"vae-{hashlib.sha256(b''.join(parts)).hexdigest()[:8]}"


def parts(state: Path) -> tuple[AutoencoderKL, nn.Conv2d]:
    """The trained autoencoder, and the colours of its inner features: from the stages vae and, if it was run, decoder."""
    vae, head = build(), colours()
    averaged(state / "vae.pt", {"vae": vae, "head": head})
    if (home(state) / "decoder.pt").exists():
        averaged(home(state) / "decoder.pt", {"decoder": vae.decoder, "head": head})
    return vae, head


def load(state: Path) -> AutoencoderKL:
    """The trained autoencoder with its outer levels."""
    vae, head = parts(state)
    set_outer(vae, head)
    return vae.eval()


def train(
    state: Path,
    concepts: list[dict],
    styles: list[str],
    time_allowed: Time,
    device: torch.device,
    seed: int,
    start: Path | None,
    batch: int,
    workers: int,
) -> None:
    """The stage vae: encoder and inner decoder."""
    torch.manual_seed(seed)
    vae, head = build(), colours()
    if start and not (state / "vae.pt").exists():
        widen(vae, start)
        if AutoencoderKL.load_config(start)["latent_channels"] == LATENTS:
            keep_scales(state)
            read_head(vae, head)
        else:
            fit_head(vae, head, pictures(state, concepts, styles, random.Random(seed), 8, None))
    for part in (
        vae.decoder.up_blocks[3].upsamplers,
        *vae.decoder.up_blocks[4:],
        vae.decoder.conv_norm_out,
        vae.decoder.conv_out,
    ):
        part.requires_grad_(False)
    vae.to(device, memory_format=torch.channels_last)
    head.to(device)
    run = Run(state / "vae.pt", {"vae": vae, "head": head}, 4e-4, device, seed, 0.995)

    def make(step: int) -> torch.Tensor:
        # Mostly parts of pictures, for the sake of speed; whole ones because a group norm sees the whole picture later.
        r = random.Random(f"vae {seed} {step}")
        count, side = (max(1, batch // 4), None) if step % 5 == 4 else (batch, 128)
        return pictures(state, concepts, styles, r, count, side)

    batches = drawn(make, run.steps, workers)
    for _ in run.budget(time_allowed, 0.4):
        whole = run.steps % 5 == 4
        x = next(batches).to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            z = encode(vae, x).float()
            h = decode_inner(vae, z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1, device=device) * 2 * NOISE)
        y = head(h.float())
        square, absolute = F.mse_loss(y, x), F.l1_loss(y, x)
        run.step(
            4 * square + 0.5 * absolute + 1e-4 * z.square().mean(), len(x),
            **{"psnr_whole" if whole else "psnr_part": psnr(y.detach(), x).mean()}, spread=z.detach().std(),
        )  # fmt: skip


def pictures(
    state: Path, concepts: list[dict], styles: list[str], r: random.Random, count: int, side: int | None
) -> torch.Tensor:
    """Random pictures at a quarter of the size, or parts of them: (count, 3, side, side) in -1..1."""
    rows = []
    for _ in range(count):
        picture = draw(state, scene(concepts, styles, "all", r, 0.4), 256, 256)
        if side:
            top, left = (r.randint(0, 256 - side) for _ in range(2))
            picture = picture[:, top : top + side, left : left + side]
        rows.append(picture)
    return torch.stack(rows).mul_(2).sub_(1)


@torch.no_grad()
def fit_head(vae: AutoencoderKL, head: nn.Conv2d, x: torch.Tensor) -> None:
    """Set the head to the least squares solution for some pictures."""
    h = decode_inner(vae, encode(vae, x)).permute(0, 2, 3, 1).reshape(-1, head.in_channels).double()
    h = torch.cat([h, torch.ones(len(h), 1)], 1)
    y = x.permute(0, 2, 3, 1).reshape(-1, 3).double()
    solution = torch.linalg.solve(h.T @ h + 1e-3 * torch.eye(h.shape[1]), h.T @ y).float()
    head.weight.copy_(solution[:-1].T[:, :, None, None])
    head.bias.copy_(solution[-1])
