"""The decoder's two outer levels, which are set and not trained: they enlarge a picture four times, bilinearly."""

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

# The constant beside a colour in a group norm's group, which keeps the norm's scale the same for every picture.
ANCHOR = 6.0
# How far below zero a colour is held inside a picture, where set_border must not let it pass.
CLOSED = 16.0
# The mean square of a colour in -1..1 over these pictures.
MEAN_SQUARE = 0.5
BILINEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def decode_outer(vae: AutoencoderKL, h: torch.Tensor) -> torch.Tensor:
    """Features at a quarter of the size → the picture."""
    d = vae.decoder
    h = d.up_blocks[3].upsamplers[0](h)
    for block in d.up_blocks[4:]:
        h = block(h)
    return d.conv_out(d.conv_act(d.conv_norm_out(h)))


@torch.no_grad()
def set_outer(vae: AutoencoderKL, head: nn.Conv2d) -> None:
    """Set the decoder's outer levels so that they enlarge the head's colours bilinearly.

    A group norm takes away mean and scale. So each colour c has a group of four channels (c, -c, A, -A): their mean is 0
    and, for a large constant A, their scale hardly depends on the picture. silu(c) - silu(-c) = c, exactly.
    """
    d = vae.decoder
    first, half, full, silent = [r for block in d.up_blocks[4:] for r in block.resnets]
    for resnet in (first, silent):
        resnet.conv2.weight.zero_()
        resnet.conv2.bias.zero_()
    up = d.up_blocks[3].upsamplers[0].conv
    up.weight.zero_()
    up.bias.zero_()
    for i in range(up.out_channels):
        up.weight[i, i] = BILINEAR
    first.conv_shortcut.weight[:12].zero_()
    first.conv_shortcut.bias[:12].zero_()
    last = d.up_blocks[4].upsamplers[0].conv
    last.weight.zero_()
    last.bias.zero_()
    scale = math.sqrt((ANCHOR**2 + MEAN_SQUARE) / 2)
    d.conv_norm_out.weight.fill_(1)
    d.conv_norm_out.bias.zero_()
    d.conv_out.weight.zero_()
    d.conv_out.bias.zero_()
    for colour in range(3):
        at = 4 * colour
        for sign, channel in ((1, at), (-1, at + 1)):
            first.conv_shortcut.weight[channel] = sign * head.weight[colour]
            first.conv_shortcut.bias[channel] = sign * head.bias[colour]
            last.weight[channel, channel] = BILINEAR
            d.conv_out.weight[colour, channel, 1, 1] = sign * scale
        for sign, channel in ((1, at + 2), (-1, at + 3)):
            first.conv_shortcut.bias[channel] = sign * ANCHOR
            last.weight[channel, channel, 1, 1] = 1
    for channel in range(12, 16):
        last.weight[channel, channel, 1, 1] = 1
    # The sides are those of a picture of 1024 × 1024, nothing of which depends on them but a few constants' last digits.
    set_border(half, head.bias, 512)
    set_border(full, torch.zeros(3), 1024)


def set_border(resnet: nn.Module, bias: torch.Tensor, side: int) -> None:
    """Set a resnet so that it gives back what padding with zeros took from a picture's outermost pixels: a quarter.

    Enlarged bilinearly, a colour c = w + bias is 0.75 w + bias there, so (c - bias) / 3 is missing. The resnet counts how
    many of a pixel's 3 × 3 neighbours are in the picture (9, beside an edge 6, in a corner 4), which an anchor tells, and
    lets the colour pass only where some are missing: p = ±(c - bias) - CLOSED * (count / 3 - 2), silu(p) of which is 0 inside.
    As everywhere here, constants in each norm's group keep its mean and scale the same for every picture.
    """
    anchor = resnet.norm1.weight.new_tensor(ANCHOR)
    resnet.norm1.weight.fill_(math.sqrt((ANCHOR**2 + MEAN_SQUARE) / 2))
    for part in (resnet.norm1.bias, resnet.conv1.weight, resnet.conv1.bias, resnet.conv2.weight, resnet.conv2.bias):
        part.zero_()
    # The mean and the scale of a group (p, p, CLOSED, -CLOSED), whose p is -CLOSED inside and about 0 along the edges.
    inside = (1 - 2 / side) ** 2
    mean = -CLOSED * inside / 2
    scale = math.sqrt(CLOSED**2 * (1 + inside) / 2 - mean**2)
    resnet.norm2.weight.fill_(scale)
    resnet.norm2.bias.fill_(mean)
    for colour in range(3):
        at = 4 * colour
        for sign, channel in ((1, at), (-1, at + 1)):
            resnet.conv1.weight[channel, at, 1, 1] = sign
            resnet.conv1.weight[channel, at + 1, 1, 1] = -sign
            resnet.conv1.weight[channel, at + 2] = -CLOSED / 3 / F.silu(anchor)
            resnet.conv1.bias[channel] = 2 * CLOSED - sign * bias[colour]
            resnet.conv2.weight[channel, at, 1, 1] = sign / 3
            resnet.conv2.weight[channel, at + 1, 1, 1] = -sign / 3
        resnet.conv1.bias[at + 2] = CLOSED
        resnet.conv1.bias[at + 3] = -CLOSED


@torch.no_grad()
def read_head(vae: AutoencoderKL, head: nn.Conv2d) -> None:
    """Set the head to the colours that set_outer gave an autoencoder."""
    shortcut = vae.decoder.up_blocks[4].resnets[0].conv_shortcut
    for colour in range(3):
        head.weight[colour] = shortcut.weight[4 * colour]
        head.bias[colour] = shortcut.bias[4 * colour]
