"""How well a model draws what it was asked for: python tools/pocket/evaluate.py --model FOLDER --state FOLDER --out FOLDER.

A classifier is trained on real renders alone (once a tier; it stays in the state folder) and has to recognise 95 % of
held-out ones. It judges pictures that the model makes with seeds that no training used: single things on white, styles,
two things. Background colours are measured at the picture's border. Writes report.json and sheet.png, 64 random prompts.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import backgrounds
import classifier
from concepts import article, tier
from run import device_of
from sampler import Model, open_model, sample
from scenes import LAYOUTS, scene
from sources import DEFAULT_STYLE, STYLES

SEED = 1_000_000
WANTED_ACCURACY = 0.95


def lab(colour: torch.Tensor) -> torch.Tensor:
    """sRGB 0..1 (…, 3) → CIE L*a*b* for white D65 (…, 3), where distances are about as large as they look."""
    linear = torch.where(colour > 0.04045, ((colour + 0.055) / 1.055) ** 2.4, colour / 12.92)
    to_xyz = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / torch.tensor([0.9505, 1.0, 1.089])
    f = torch.where(xyz > 216 / 24389, xyz.clamp(min=1e-9) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def border_colour(picture: torch.Tensor) -> str:
    """The name of the background colour that is nearest to the median of a picture's outermost 5 %."""
    _, height, width = picture.shape
    edge = max(2, height // 20)
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[edge : height - edge, edge : width - edge] = False
    middle = ((picture[:, mask] + 1) / 2).median(1).values.clamp(0, 1)
    names = list(backgrounds.COLOURS)
    known = lab(torch.stack([backgrounds.rgb(n) for n in names]))
    return names[int((known - lab(middle)).norm(dim=1).argmin())]


def styled(text: str, style: str) -> str:
    """A prompt with the words for a style; the default one needs none."""
    return text if style == DEFAULT_STYLE else f"{text}, {style} style"


def judge(
    model: Model,
    judge_network: classifier.Classifier,
    concepts: list[dict],
    styles: list[str],
    steps: int,
    scale: float,
) -> dict:
    """All measurements as parts of 1."""
    r = random.Random(SEED)
    things = [article(c["words"][0]) for c in concepts]

    def draw(prompts: list[str], offset: int) -> torch.Tensor:
        return sample(model, prompts, SEED + offset, steps, scale)

    single = [classifier.crop(p, LAYOUTS["single"][0]) for p in draw(things, 0)]
    order = classifier.ranked(judge_network, torch.stack(single))[0]
    right = torch.arange(len(things))[:, None]
    hits = (order[:, :5] == right).cumsum(1)

    colours = [name for name in backgrounds.COLOURS for _ in range(2)]
    prompts = [f"{r.choice(things)} {backgrounds.plain(name).phrase}" for name in colours]
    seen = [border_colour(p) for p in draw(prompts, 1000)]

    asked = [s for s in styles for _ in range(16)]
    prompts = [styled(r.choice(things), s) for s in asked]
    pictures = torch.stack([classifier.crop(p, LAYOUTS["single"][0]) for p in draw(prompts, 2000)])
    guessed = classifier.ranked(judge_network, pictures)[1][:, 0].tolist()

    pairs = [r.sample(range(len(things)), 2) for _ in range(32)]
    both = 0
    for pair, picture in zip(pairs, draw([f"{things[a]} and {things[b]}" for a, b in pairs], 3000), strict=True):
        crops = torch.stack([classifier.crop(picture, place) for place in LAYOUTS["pair"]])
        both += set(classifier.ranked(judge_network, crops)[0][:, 0].tolist()) == set(pair)
    return {
        "top1": hits[:, 0].float().mean().item(),
        "top5": hits[:, -1].float().mean().item(),
        "background": sum(a == b for a, b in zip(colours, seen, strict=True)) / len(colours),
        "style": sum(list(STYLES)[g] == a for g, a in zip(guessed, asked, strict=True)) / len(asked),
        "two": both / len(pairs),
        "recognised": [c["words"][0] for c, hit in zip(concepts, hits[:, 0], strict=True) if hit],
    }


def sheet(pictures: torch.Tensor, columns: int, side: int) -> Image.Image:
    """Pictures (N, 3, H, W) in -1..1 side by side, each scaled to side × side."""
    small = torch.nn.functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
    rows = -(-len(small) // columns)
    canvas = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for i, picture in enumerate(((small.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * side, i % columns * side
        canvas[top : top + side, left : left + side] = picture
    return Image.fromarray(canvas)


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tier", type=int, default=64)
    parser.add_argument("--styles", default="cartoon,flat")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet-only", action="store_true", help="no measurements")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = device_of(args.device)
    concepts, styles = tier(args.tier), args.styles.split(",")
    args.out.mkdir(parents=True, exist_ok=True)
    model = open_model(args.model, device)
    if not args.sheet_only:
        network, accuracy, style_accuracy = classifier.load(args.state, concepts, styles, device)
        print(f"classifier: {accuracy:.1%} of held-out renders, style {style_accuracy:.1%}", flush=True)
        if min(accuracy, style_accuracy) < WANTED_ACCURACY:
            raise SystemExit(
                f"the classifier must recognise {WANTED_ACCURACY:.0%} of held-out renders to judge anything"
            )
        report = {
            "classifier": accuracy,
            "classifier_style": style_accuracy,
            "concepts": len(concepts),
            "steps": args.steps,
            "cfg": args.cfg,
        }
        report |= judge(model, network, concepts, styles, args.steps, args.cfg)
        (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        print("  ".join(f"{k} {report[k]:.1%}" for k in ("top1", "top5", "background", "style", "two")), flush=True)
    r = random.Random(SEED + 1)
    prompts = [scene(concepts, styles, "mostly-single", r).caption for _ in range(64)]
    sheet(sample(model, prompts, SEED + 4000, args.steps, args.cfg), 8, 128).save(args.out / "sheet.png")
    (args.out / "sheet.txt").write_text("\n".join(prompts) + "\n")


if __name__ == "__main__":
    main()
