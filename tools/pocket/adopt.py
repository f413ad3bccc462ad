"""Ship a trained model: python tools/pocket/adopt.py --model EXPORT [--only STEP …].

Puts the folder that export.py wrote in the place of models/pocket, and makes everything anew that was made from it: its
fixtures in test/golden/parity, the LoRA and the inversion of models/public, the pictures of README and docs. The other fixtures
come from an early pocket, test/golden/models/pocket, which stays. Each step can be repeated with --only; the first that fails
ends everything. A quarter of an hour on two cores. Sheets and figures (pocket-sheet, pocket-times and fidelity in
docs/pictures, the model card, bench/README.md) are evaluate.py's and bench/fidelity.ts', and stay as they are. Needs
tools/reference/requirements.txt; afterwards `npm test` has to pass.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POCKET = ROOT / "models/pocket"
# The pictures of README's first screen: file → prompt, with seed 1.
PICTURES = {
    "cat": "a cat on a light blue background",
    "burger": "a burger on a yellow background",
    "tree": "a tree on a green meadow",
    "umbrella": "an umbrella on a pink background, flat style",
    "dog": "a dog",
    "train": "a train on a green background",
}


def reference(script: str, *arguments: str) -> None:
    """Run a script of tools/ with this Python."""
    subprocess.run([sys.executable, ROOT / "tools" / script, *arguments], cwd=ROOT, check=True)


def vocabulary(folder: Path, name: str) -> dict:
    """What a tokenizer knows."""
    return json.loads((folder / name / "tokenizer.json").read_text())["model"]


def weights(model: Path) -> None:
    """The networks and the list of concepts; the tokenizers stay as SDXL has them, and must know the same."""
    for name in ("tokenizer", "tokenizer_2"):
        if vocabulary(model, name) != vocabulary(POCKET, name):
            raise SystemExit(f"{model / name} has another vocabulary than {POCKET / name}")
    for name in ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler"):
        shutil.copytree(model / name, POCKET / name, dirs_exist_ok=True)
    for name in ("model_index.json", "concepts.json"):
        shutil.copy(model / name, POCKET / name)


def parity(_: Path) -> None:
    """The reference's pictures."""
    for old in (ROOT / "test/golden/parity").glob("shipped-*.png"):
        old.unlink()
    reference("reference/parity.py", "--missing")


def extras(_: Path) -> None:
    """The LoRA and the inversion, from the beginning."""
    with tempfile.TemporaryDirectory() as work:
        reference("pocket-extras/train.py", "--work", work, "--threads", "2")


def readme(_: Path) -> None:
    """README's pictures, and those of docs/modes.md and docs/assets.md."""
    for name, prompt in PICTURES.items():
        target = ROOT / f"docs/pictures/{name}.jpg"
        subprocess.run([ROOT / "bin/sepia.js", "generate", prompt, "--seed", "1", "-o", target], check=True)
    subprocess.run(["npx", "node", "bench/pictures.ts", "--output", "docs/pictures"], cwd=ROOT, check=True)


STEPS = {
    "weights": weights,
    "check": lambda _: reference("pocket/check.py", "--model", str(POCKET)),
    "parity": parity,
    "extras": extras,
    "readme": readme,
}


def main() -> None:
    """Read the command line and do the steps in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    args = parser.parse_args()
    for name, step in STEPS.items():
        if name in args.only:
            print(f"== {name}", flush=True)
            step(args.model.resolve())


if __name__ == "__main__":
    main()
