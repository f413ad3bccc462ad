"""Make the fixtures of reading and resizing pictures: `python tools/reference/pixels.py` → test/golden/pixels/.

decode.safetensors   NAME.file: a small encoded picture as uint8; NAME.rgb (H, W, 3) and NAME.gray (H, W): what
                     load_image and convert("L") make of it (of 16-bit grey: the upper byte, see grey16 below)
resize.safetensors   source (29, 37, 3) and results WIDTHxHEIGHT with Lanczos, of the picture and, `gray.`, of its first channel
tensors.safetensors  VaeImageProcessor's tensors of every 8-bit value, and torch's nearest interpolation of masks
crops.json           masks as lists of rectangles, sizes and paddings, and get_crop_region's answers
fills.safetensors    N.picture, N.mask: crop and resize_mode "fill"; N.back: the first 3 channels of resize_mode "crop" back
"""

import io
import json
import struct
import zlib
from pathlib import Path

import diffusers
import numpy as np
import PIL
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import load_image
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[2] / "test/golden/pixels"
SEED = 11
rng = np.random.default_rng(SEED)


def scene(width: int, height: int) -> np.ndarray:
    """Smooth colours, hard edges and some noise, so that a codec has something to do."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / 5 + 2 * c) * np.cos(y / (4 + c)) for c in range(3)]
    picture = np.stack(waves, axis=-1) + rng.normal(0, 6, (height, width, 3))
    picture[height // 3 : height // 2, width // 4 : width // 2] = (250, 30, 5)
    return np.clip(picture, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def decode_cases() -> dict[str, bytes]:
    array = scene(23, 17)
    rgb = Image.fromarray(array)
    alpha = rng.integers(0, 256, (17, 23), dtype=np.uint8)
    rgba = Image.fromarray(np.dstack([array, alpha]))
    adaptive = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=60)
    cases = {
        "jpeg444": encoded(rgb, "JPEG", quality=90, subsampling=0),
        "jpeg420": encoded(rgb, "JPEG", quality=70, subsampling=2),
        "jpeg-progressive": encoded(rgb, "JPEG", quality=80, progressive=True),
        "jpeg-gray": encoded(rgb.convert("L"), "JPEG", quality=85),
        "png": encoded(rgb, "PNG"),
        "png-rgba": encoded(rgba, "PNG"),
        "png-gray": encoded(rgb.convert("L"), "PNG"),
        "png-gray-alpha": encoded(rgba.convert("LA"), "PNG"),
        "png-1bit": encoded(rgb.convert("1"), "PNG"),
        "png-palette": encoded(adaptive, "PNG"),
        "png-palette-alpha": encoded(adaptive, "PNG", transparency=bytes(range(200, 256))),
        "png-rgb16": png(9, 7, 16, 2, rng.integers(0, 65536, (7, 9, 3), dtype=np.uint16)),
        "png-rgba16": png(9, 7, 16, 6, rng.integers(0, 65536, (7, 9, 4), dtype=np.uint16)),
        "webp": encoded(rgb, "WEBP", quality=75),
        "webp-alpha": encoded(rgba, "WEBP", quality=75),
        "webp-lossless": encoded(rgba, "WEBP", lossless=True, exact=True),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        cases[f"exif-{orientation}"] = encoded(rgb, "JPEG", quality=85, exif=exif.tobytes())
    exif[0x0112] = 6
    cases["exif-png"] = encoded(rgb, "PNG", exif=exif.tobytes())
    cases["exif-webp"] = encoded(rgb, "WEBP", lossless=True, exif=exif.tobytes())
    return cases


def decode() -> dict[str, np.ndarray]:
    tensors = {}
    for name, file in decode_cases().items():
        picture = load_image(Image.open(io.BytesIO(file)))
        tensors[f"{name}.file"] = np.frombuffer(file, np.uint8)
        tensors[f"{name}.rgb"] = np.asarray(picture)
        tensors[f"{name}.gray"] = np.asarray(picture.convert("L"))
    # Pillow clips 16-bit grey at 255, so that nearly all of it is white; every other reader takes the upper byte.
    deep = rng.integers(0, 65536, (7, 9), dtype=np.uint16)
    upper = (deep >> 8).astype(np.uint8)
    tensors["png-gray16.file"] = np.frombuffer(png(9, 7, 16, 0, deep), np.uint8)
    tensors["png-gray16.rgb"] = np.repeat(upper[:, :, None], 3, axis=2)
    tensors["png-gray16.gray"] = upper
    return tensors


def resize() -> dict[str, np.ndarray]:
    source = scene(37, 29)
    tensors = {"source": source}
    sizes = [(64, 64), (16, 11), (37, 58), (74, 29), (1, 1), (128, 40), (37, 29), (5, 90), (36, 28), (3, 3), (36, 20), (50, 8)]  # fmt: skip
    for width, height in sizes:
        for prefix, image in [("", Image.fromarray(source)), ("gray.", Image.fromarray(source[:, :, 0]))]:
            resized = VaeImageProcessor(vae_scale_factor=1).resize(image, height, width)
            tensors[f"{prefix}{width}x{height}"] = np.asarray(resized)
    return tensors


def picture_tensors() -> dict[str, np.ndarray]:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.dstack([values, values[::-1], values.T]))
    masks = VaeImageProcessor(vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    tensors = {
        "picture": VaeImageProcessor(vae_scale_factor=1).preprocess(picture).numpy(),
        "mask": masks.preprocess(Image.fromarray(values)).numpy(),
    }
    for height, width, to_height, to_width in [(64, 64, 8, 8), (60, 100, 7, 12), (48, 80, 6, 10), (33, 70, 10, 9)]:
        mask = torch.from_numpy(rng.integers(0, 2, (1, 1, height, width)).astype(np.float32))
        tensors[f"mask.{height}x{width}"] = mask.numpy()
        small = torch.nn.functional.interpolate(mask, size=(to_height, to_width))
        tensors[f"latent.{height}x{width}"] = small.numpy()
    return tensors


def random_mask(width: int, height: int) -> tuple[Image.Image, list[list[int]]]:
    mask = Image.new("L", (width, height))
    boxes = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        box = [x, y, int(rng.integers(x, width)), int(rng.integers(y, height)), int(rng.integers(1, 256))]
        ImageDraw.Draw(mask).rectangle(box[:4], fill=box[4])
        boxes.append(box)
    return mask, boxes


def crops() -> list[dict]:
    cases = []
    for _ in range(150):
        width, height = (int(n) for n in rng.integers(8, 200, 2))
        mask, boxes = random_mask(width, height)
        to_width, to_height = (8 * int(n) for n in rng.integers(1, 30, 2))
        padding = int(rng.choice([0, 1, 7, 32, 300]))
        region = VaeImageProcessor.get_crop_region(mask, to_width, to_height, pad=padding)
        sizes = {"width": width, "height": height, "toWidth": to_width, "toHeight": to_height, "padding": padding}
        cases.append({**sizes, "boxes": boxes, "region": list(region)})
    return cases


def fills() -> tuple[dict[str, np.ndarray], list[dict]]:
    tensors, cases = {}, []
    source = scene(60, 44)
    # Regions in the shape of the target, wider and taller than it, with odd rests, and one enlarged a lot.
    regions = [(10, 6, 42, 30, 64, 48), (0, 0, 60, 11, 48, 48), (21, 3, 30, 44, 64, 32), (5, 5, 12, 11, 40, 40),
               (0, 0, 60, 44, 33, 25), (2, 1, 59, 20, 40, 24)]  # fmt: skip
    processor = VaeImageProcessor(vae_scale_factor=1)
    for index, (left, top, right, bottom, width, height) in enumerate(regions):
        cropped = Image.fromarray(source).crop((left, top, right, bottom))
        filled = processor.resize(cropped, height, width, resize_mode="fill")
        mask = processor.resize(cropped.getchannel(0), height, width, resize_mode="fill").convert("L")
        back = processor.resize(filled, bottom - top, right - left, resize_mode="crop")
        tensors |= {f"{index}.picture": np.asarray(filled), f"{index}.mask": np.asarray(mask)}
        tensors[f"{index}.back"] = np.asarray(back)
        cases.append({"region": [left, top, right, bottom], "width": width, "height": height})
    tensors["source"] = source
    return tensors, cases


def save(tensors: dict[str, np.ndarray], name: str) -> None:
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, OUT / name)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    save(decode(), "decode.safetensors")
    save(resize(), "resize.safetensors")
    save(picture_tensors(), "tensors.safetensors")
    regions = crops()
    filled, cases = fills()
    save(filled, "fills.safetensors")
    (OUT / "crops.json").write_text(json.dumps({"regions": regions, "fills": cases}) + "\n")
    versions = f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, pillow {PIL.__version__}"
    (OUT / "PROVENANCE.md").write_text(
        "# Provenance\n\n"
        f"Made by `python tools/reference/pixels.py` with {versions}, numpy {np.__version__}; seed {SEED}.\n"
    )


if __name__ == "__main__":
    main()
