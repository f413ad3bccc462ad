"""Pocket from icons to a model, one command a stage: python tools/pocket/train.py STAGE --state FOLDER [--minutes N].

    fetch     the icon sets, from npm
    concepts  the tiers, into concepts.json (its content is committed before a tier is trained)
    render    the icons of a tier as sprites
    vae       the autoencoder at a quarter of the size
    decoder   the decoder's inner part, against pictures of the whole size
    latents   scenes and captions, encoded
    text      both text encoders against small latents
    unet      the UNet
    quality   the autoencoder's PSNR on held-out scenes, and a sheet: STATE/quality.png

Every stage can be stopped (SIGTERM, --minutes) and goes on when it is called again. All state is in --state.
"""

import argparse
import os
import sys
from pathlib import Path

# A thread that waits for another one must not fall asleep: a step of the UNet is thousands of short operations. And glibc
# must keep large blocks, which saves half of the time on a CPU, and ask for huge pages, which saves a tenth. All this has
# to be said before a process begins.
SETTINGS = {
    "OMP_WAIT_POLICY": "ACTIVE",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
if __name__ == "__main__" and not SETTINGS.keys() <= os.environ.keys():
    os.execve(sys.executable, [sys.executable, *sys.argv], {**SETTINGS, **os.environ})


def main() -> None:
    """Read the command line and run a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "stage", choices=("fetch", "concepts", "render", "vae", "decoder", "latents", "text", "unet", "quality")
    )
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of data and checkpoints, outside the work tree"
    )
    parser.add_argument("--minutes", type=float, default=10, help="train for so long, then save (default 10)")
    parser.add_argument("--of-processor", action="store_true", help="count the processor's minutes, not the clock's")
    parser.add_argument("--tier", type=int, default=64, help="how many concepts: 64, 150 or 300 (default 64)")
    parser.add_argument("--styles", default="cartoon,flat", help="styles to learn (default cartoon,flat)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default auto)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw pictures beside (default 0: none)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, help="samples a step (default: the stage's)")
    parser.add_argument("--rate", type=float, help="unet: largest learning rate (default 0.001)")
    parser.add_argument("--cool", type=float, help="unet: the part of the time in which it falls, the last (default 0.35)")
    parser.add_argument("--pull", type=float, help="unet: the part of a caption's effect that is learnt (default 1)")
    parser.add_argument("--start", type=Path, help="vae, text, unet: a trained model's folder to start from")
    parser.add_argument("--mix", default="mostly-single", help="latents: which layouts (single, mostly-single, all, pairs)")
    parser.add_argument("--plain", type=float, help="latents: share of backgrounds of one colour")
    parser.add_argument("--count", type=int, default=4000, help="latents: how many scenes")
    parser.add_argument("--size", default="1024x1024", help="latents: width x height")
    parser.add_argument("--pattern", default="*", help="unet: which files of latents (default: all)")
    args = parser.parse_args()
    if args.stage != "unet" and not args.rate is args.cool is args.pull is None:
        parser.error(f"--rate, --cool and --pull are for the stage unet, got {args.stage}")
    rate, cool = 1e-3 if args.rate is None else args.rate, 0.35 if args.cool is None else args.cool
    pull = 1 if args.pull is None else args.pull
    if rate <= 0 or not 0 <= cool <= 1 or not 0 < pull <= 1:
        parser.error(f"--rate must be positive, --cool 0 to 1, --pull above 0 to 1, got {rate}, {cool} and {pull}")

    import torch

    from concepts import tier
    from run import Time, device_of
    from sources import STYLES

    torch.set_num_threads(args.threads)
    device = device_of(args.device)
    allowed = Time(args.minutes, args.of_processor)
    styles = args.styles.split(",")
    if unknown := set(styles) - set(STYLES):
        raise SystemExit(f"--styles must be of {list(STYLES)}, got {sorted(unknown)}")
    match args.stage:
        case "fetch":
            from sources import fetch

            fetch(args.state)
        case "concepts":
            from concepts import write

            write(args.state)
        case "render":
            from sprites import render

            render(args.state, [c["slug"] for c in tier(args.tier)], styles)
        case "vae":
            import vae

            vae.train(
                args.state,
                tier(args.tier),
                styles,
                allowed,
                device,
                args.seed,
                args.start and args.start / "vae",
                args.batch or 8,
                args.workers,
            )
        case "decoder":
            import decoder

            decoder.train(
                args.state, tier(args.tier), styles, allowed, device, args.seed, args.batch or 2, args.workers
            )
        case "latents":
            import latents

            width, height = map(int, args.size.split("x"))
            latents.make(
                args.state,
                tier(args.tier),
                styles,
                args.mix,
                args.plain,
                args.count,
                (width, height),
                device,
                args.seed,
                args.workers,
            )
        case "text":
            import text

            text.train(args.state, allowed, device, args.seed, args.start, args.batch or 64)
        case "unet":
            import unet

            batch = args.batch or 32
            unet.train(args.state, args.pattern, allowed, device, args.seed, args.start, batch, rate, cool, pull)
        case "quality":
            import decoder
            from evaluate import sheet

            values, pairs = decoder.measure(args.state, tier(args.tier), styles, 12, args.seed)
            print(f"held out at 1024 × 1024: {sum(values) / len(values):.2f} dB, worst {min(values):.2f}")
            sheet(pairs, 6, 256).save(args.state / "quality.png")


if __name__ == "__main__":
    main()
