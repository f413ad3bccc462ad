"""The UNet: epsilon prediction over SDXL's schedule, with what makes it follow the caption soon."""

import math
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from latents import load
from networks import SCHEDULE, alphas_cumprod, conditions, unet
from run import Run, Time, averaged
from text import load_encoders
from vae import LATENTS, home

DROPPED = 0.08
# The parts of the samples at t >= NOISY whose input has no trace of the picture, and another amount of it than the schedule
# says. The first is how sampling begins; the second is what a large guidance scale makes of it. In both the network has to
# go by the caption, and to lead back to the right amount.
NOISY = 600
WITHOUT_TRACE, OTHER_AMOUNT, LARGEST_AMOUNT = 0.35, 0.3, 3.0
# The part of the samples below t = 300, where little is left to decide.
CALM = 0.2
ANCHOR = 4.0


def load_unet(state: Path) -> tuple[UNet2DConditionModel, tuple[int, int, float, float]]:
    """The trained UNet (averaged weights), and its counters."""
    network = unet()
    counters = averaged(home(state) / "unet.pt", {"unet": network})
    return network.eval(), counters


@torch.no_grad()
def precondition(network: UNet2DConditionModel) -> None:
    """Set initial values so that the untrained network answers with its input: the best guess at high t.

    At t = 950 an error of a hundredth in epsilon is one of a tenth in the picture. So the way of the input through the
    last skip connection is made exact. The first layer's channels are, for each pair of latents x and y, (x, -x, y, -y,
    A, -A) with a constant A, one group of the group norm: its mean is 0, its scale hardly depends on the input, and
    silu(x) - silu(-x) = x. What the network adds is scaled by about the signal's part in the input at each timestep.
    """
    width = network.config.block_out_channels[0]
    groups = LATENTS // 2
    each = width // groups
    if network.config.norm_num_groups != groups or each < 6:
        raise SystemExit(
            f"{width} channels in {network.config.norm_num_groups} groups have no room for {LATENTS} latents"
        )
    scale = math.sqrt((4 + 2 * ANCHOR**2) / each)
    network.conv_in.weight.zero_()
    network.conv_in.bias.zero_()
    last = network.up_blocks[-1].resnets[-1]
    last.conv_shortcut.weight.zero_()
    last.conv_shortcut.bias.zero_()
    skip = last.conv_shortcut.in_channels - width
    for channel in range(width):
        last.conv_shortcut.weight[channel, skip + channel] = 1
    last.conv2.weight.mul_(0.1)
    last.conv2.bias.zero_()
    network.conv_norm_out.weight.fill_(1)
    network.conv_norm_out.bias.zero_()
    network.conv_out.weight.zero_()
    network.conv_out.bias.zero_()
    for latent in range(LATENTS):
        at = each * (latent // 2) + 2 * (latent % 2)
        for sign, channel in ((1, at), (-1, at + 1)):
            network.conv_in.weight[channel, latent, 1, 1] = sign
            network.conv_out.weight[latent, channel, 1, 1] = sign * scale
    for group in range(groups):
        network.conv_in.bias[each * group + 4] = ANCHOR
        network.conv_in.bias[each * group + 5] = -ANCHOR
    # The last block's features get the factor 1 + scale(t): least squares for 2 sqrt(alphas_cumprod).
    t = torch.arange(SCHEDULE["num_train_timesteps"])
    known = torch.nn.functional.silu(network.time_embedding(network.time_proj(t).float())).double()
    known = torch.cat([known, torch.ones(len(known), 1)], 1)
    wanted = (2 * alphas_cumprod().sqrt() - 1).double()[:, None]
    solution = torch.linalg.solve(known.T @ known + 1e-3 * torch.eye(known.shape[1]), known.T @ wanted).float()
    half = last.time_emb_proj.out_features // 2
    last.time_emb_proj.weight.zero_()
    last.time_emb_proj.bias.zero_()
    last.time_emb_proj.weight[:half] = solution[:-1].T
    last.time_emb_proj.bias[:half] = solution[-1]
    network.add_embedding.linear_2.weight.mul_(0.3)


@torch.no_grad()
def start_from(network: UNet2DConditionModel, trained: UNet2DConditionModel) -> None:
    """Take a trained UNet's weights. Attention that it lacks is added as nothing: its last layer begins at zero."""
    missing, unknown = network.load_state_dict(trained.state_dict(), strict=False)
    if unknown or (other := [name for name in missing if ".attentions." not in name]):
        raise SystemExit(f"--start has a UNet that is not a part of this one: {(unknown or other)[0]}")
    for name, parameter in network.named_parameters():
        if name in missing and ".proj_out." in name:
            parameter.zero_()


def timesteps(count: int) -> torch.Tensor:
    """Random timesteps, evenly spread within their part of the schedule."""
    u = (torch.arange(count) + torch.rand(count)) / count
    t = torch.where(u < CALM, u / CALM * 300, 300 + (u - CALM) / (1 - CALM) * 700)
    return t.long().clamp(max=999)[torch.randperm(count)]


def amounts(t: torch.Tensor) -> torch.Tensor:
    """How much of the signal that the schedule prescribes is in each input: mostly 1."""
    u = torch.rand(len(t))
    other = torch.where(u < WITHOUT_TRACE, torch.zeros(()), torch.rand(len(t)) * LARGEST_AMOUNT)
    return torch.where((t >= NOISY) & (u < WITHOUT_TRACE + OTHER_AMOUNT), other, torch.ones(()))


def answer(
    network: UNet2DConditionModel,
    x: torch.Tensor,
    t: torch.Tensor,
    states: torch.Tensor,
    pooled: torch.Tensor,
    time_ids: torch.Tensor,
) -> torch.Tensor:
    """The network's epsilon in fp32, computed in bf16: x (B, 16, h, w), states (B, 77, 320), pooled (B, 192)."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return network(
            x.contiguous(memory_format=torch.channels_last), t, states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample.float()  # fmt: skip


def train(
    state: Path,
    pattern: str,
    time_allowed: Time,
    device: torch.device,
    seed: int,
    start: Path | None,
    batch: int,
    rate: float,
    cool: float,
    pull: float,
) -> None:
    """The stage unet.

    With a pull below 1 a caption is to move the answer from the one without a caption by that part of what it should. A
    guidance scale then has the effect of one that is smaller by this factor: 12 of 4.8 at 0.4, where errors are not yet
    enlarged so much that they are seen.
    """
    torch.manual_seed(seed)
    data = load(state, pattern)
    first, second = (m.to(device) for m in load_encoders(state))
    features = {}
    for size, (_, ids) in data.items():
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            pairs = [conditions(first, second, part.to(device)) for part in ids.split(100)]
        features[size] = tuple(torch.cat([p[i].bfloat16() for p in pairs]) for i in (0, 1))
    network = unet()
    if start:
        start_from(network, UNet2DConditionModel.from_pretrained(start / "unet", dtype=torch.float32))
    else:
        precondition(network)
    network.to(device, memory_format=torch.channels_last)
    run = Run(home(state) / "unet.pt", {"unet": network}, rate, device, seed, 0.997)
    left = alphas_cumprod().to(device)
    share = torch.tensor([float(len(z)) for z, _ in data.values()])
    for _ in run.budget(time_allowed, cool):
        size = list(data)[int(torch.multinomial(share, 1))]
        z, (states, pooled) = data[size][0], features[size]
        count = max(4, round(batch * 1024 * 1024 / (size[0] * size[1])))
        rows = torch.randint(len(z), (count,))
        x0 = z[rows].to(device).float()
        t = timesteps(count)
        amount = amounts(t).to(device)[:, None, None, None]
        t = t.to(device)
        signal, noise = (s[:, None, None, None] for s in (left[t].sqrt(), (1 - left[t]).sqrt()))
        epsilon = torch.randn_like(x0)
        x = signal * amount * x0 + noise * epsilon
        target = (x - signal * x0) / noise
        kept = (torch.rand(count) >= DROPPED).to(device)
        time_ids = torch.tensor([[size[0], size[1], 0, 0, size[0], size[1]]], device=device).float().expand(count, -1)
        given = states[rows.to(states.device)], pooled[rows.to(pooled.device)]
        if pull < 1:
            with torch.no_grad():
                without = answer(network, x, t, *(torch.zeros_like(c) for c in given), time_ids)
            target = torch.where(kept[:, None, None, None], without.lerp(target, pull), target)
        guess = answer(network, x, t, given[0] * kept[:, None, None], given[1] * kept[:, None], time_ids)
        # The error in v, the velocity: epsilon's over the signal's part, bounded at the noisy end.
        error = (guess - target).square().mean((1, 2, 3)) / left[t].clamp(min=0.01)
        parts = {
            name: error[(t >= low) & (t < high)]
            for name, low, high in (("calm", 0, 300), ("middle", 300, 700), ("noisy", 700, 1000))
        }
        run.step(error.mean(), count, **{k: v.detach().mean() for k, v in parts.items() if len(v)})
