"""The icon sets: where they come from, under which licence, and what each is used for."""

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class IconSet:
    """An npm package of icons as SVG. `style` is the caption's word for its look; None: only its names are counted."""

    package: str
    version: str
    licence: str
    author: str
    style: str | None = None


# The first one is the default style, which needs no word in a caption. OpenMoji (CC BY-SA) is left out, because its
# share-alike may reach the weights.
SETS: dict[str, IconSet] = {
    "noto": IconSet("@iconify-json/noto", "1.2.9", "Apache-2.0", "Google Inc", "cartoon"),
    "fluent-emoji-flat": IconSet("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Microsoft Corporation", "flat"),
    "fluent-emoji": IconSet("@iconify-json/fluent-emoji", "1.2.7", "MIT", "Microsoft Corporation", "glossy"),
    "noto-v1": IconSet("@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Google Inc"),
    "twemoji": IconSet("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twitter"),
    "fxemoji": IconSet("@iconify-json/fxemoji", "1.2.2", "Apache-2.0", "Mozilla"),
    "mdi": IconSet("@iconify-json/mdi", "1.2.3", "Apache-2.0", "Pictogrammers"),
    "tabler": IconSet("@iconify-json/tabler", "1.2.41", "MIT", "Paweł Kuna"),
    "ph": IconSet("@iconify-json/ph", "1.2.2", "MIT", "Phosphor Icons"),
}
STYLES: dict[str, str] = {s.style: name for name, s in SETS.items() if s.style}
DEFAULT_STYLE = next(iter(STYLES))


def fetch(state: Path) -> None:
    """Download and unpack every set that is not there yet: STATE/icons/SET/icons.json."""
    for name, icon_set in SETS.items():
        folder = state / "icons" / name
        if (folder / "icons.json").exists():
            continue
        scratch = state / "icons" / f".{name}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        packed = (
            subprocess.run(
                ["npm", "pack", "--silent", f"{icon_set.package}@{icon_set.version}"],
                cwd=scratch,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            .stdout.strip()
            .splitlines()[-1]
        )
        with tarfile.open(scratch / packed) as archive:
            archive.extractall(scratch, filter="data")
        licence = json.loads((scratch / "package/info.json").read_text())["license"]["spdx"]
        if licence != icon_set.licence:
            raise SystemExit(f"{icon_set.package} says licence {licence}, expected {icon_set.licence}")
        (scratch / "package").rename(folder)
        shutil.rmtree(scratch)
        print(f"{name}: {icon_set.package}@{icon_set.version}, {licence}")


@cache
def icons(state: Path, name: str) -> dict:
    """The icons of a set: {"icons": {slug: {"body", …}}, "aliases", "width", "height"}, and its categories if it has any."""
    folder = state / "icons" / name
    if not (folder / "icons.json").exists():
        raise SystemExit(f"{folder} is missing: run the stage fetch first")
    metadata = folder / "metadata.json"
    content = json.loads((folder / "icons.json").read_text())
    content["categories"] = json.loads(metadata.read_text()).get("categories", {}) if metadata.exists() else {}
    return content


def svg(state: Path, name: str, slug: str, side: int) -> str:
    """An icon as an SVG document of side × side pixels."""
    content = icons(state, name)
    icon = content["icons"].get(slug) or content["icons"][content["aliases"][slug]["parent"]]
    width, height = (icon.get(k, content.get(k, 16)) for k in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{side}" '
        f'height="{side}" viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
    )
