"""Files of torch.save with code in their pickles, as Python itself writes them; and a harmless neighbour of each kind.

    .venv/bin/python tools/reference/hostile.py

Writes test/golden/hostile/*.pt. Nothing is loaded here. Loaded by Python's pickle, each of them would make the file
`SEPIA-WAS-HERE` in the working directory, or try to reach another module; the reader must refuse all of them.
"""

import collections
import io
import pickle
import platform
import zipfile
from pathlib import Path

import torch

FOLDER = Path("test/golden/hostile")
COMMAND = "touch SEPIA-WAS-HERE"


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Stateful:
    """Pickles as an object with a state that is set."""

    def __init__(self):
        self.value = 1

    def __getstate__(self):
        return {"value": 1}

    def __setstate__(self, state):
        raise SystemExit("a state was set")


class NamedDict(collections.OrderedDict):
    """A dictionary of a class of its own."""


def named(module, name):
    """A function that pickles as `module.name`, whatever that is."""

    def function():
        pass

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    return function


class ByName(pickle._Pickler):
    """Python's own pickler, which writes names of functions without looking them up."""

    def save_global(self, value, name=None):
        name = name or value.__qualname__
        self.save(value.__module__)
        self.save(name)
        self.write(pickle.STACK_GLOBAL)

    dispatch = pickle._Pickler.dispatch | {type(named): save_global}


def archive(name, data, tensors=(torch.zeros(6),)):
    """A file of torch.save whose data.pkl is `data`."""
    buffer = io.BytesIO()
    torch.save(list(tensors), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(FOLDER / f"{name}.pt", "w") as target:
        for entry in source.infolist():
            fresh = zipfile.ZipInfo(entry.filename, date_time=(1980, 1, 1, 0, 0, 0))
            target.writestr(fresh, data if entry.filename.endswith("/data.pkl") else source.read(entry))


def by_name(value, protocol=4):
    buffer = io.BytesIO()
    ByName(buffer, protocol).dump(value)
    return buffer.getvalue()


def main():
    import os

    FOLDER.mkdir(parents=True, exist_ok=True)
    weights = {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 32)}
    saved = {
        "system": {**weights, "x": Calls(os.system, COMMAND)},
        "eval": {**weights, "x": Calls(eval, f"__import__('os').system({COMMAND!r})")},
        "getattr": {**weights, "x": Calls(getattr, "", "join")},
        "open": {**weights, "x": Calls(open, "SEPIA-WAS-HERE", "w")},
        "nested-load": {**weights, "x": Calls(pickle.loads, pickle.dumps(Calls(os.system, COMMAND)))},
        "state": {**weights, "x": Stateful()},
        "subclass": NamedDict(weights),
        "module": torch.nn.Linear(2, 2),
        "set": {**weights, "x": {1, 2}},
        "bytes": {**weights, "x": b"abc"},
        "complex": {**weights, "x": torch.zeros(2, dtype=torch.complex64)},
        "sparse": {**weights, "x": torch.eye(3).to_sparse()},
        "unsigned": {**weights, "x": torch.zeros(2, dtype=torch.uint16)},
        "device": {**weights, "x": torch.device("cpu")},
        "dtype": {**weights, "x": torch.float16},
    }
    for name, value in saved.items():
        for protocol in (2, 4):
            torch.save(value, FOLDER / f"{name}-{protocol}.pt", pickle_protocol=protocol)
    names = {
        "dotted": ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        "hub": ("torch.hub", "load"),
        "exec-wrapper": ("torch.jit.unsupported_tensor_ops", "execWrapper"),
        "from-file": ("torch", "FloatStorage.from_file"),
        "numpy": ("numpy.testing._private.utils", "runstring"),
    }
    for name, (module, member) in names.items():
        archive(name, by_name(Calls(named(module, member), COMMAND)))
    # Nothing but data: the reader takes it, so that the refusals above are of what is in them.
    torch.save(weights, FOLDER / "harmless.pt")
    (FOLDER / "PROVENANCE.md").write_text(
        "# Files with code in their pickles\n\n"
        "Made by `python tools/reference/hostile.py` with "
        f"Python {platform.python_version()}, torch {torch.__version__}. Do not load them with pickle.\n"
    )


if __name__ == "__main__":
    main()
