"""Golden sampling loops of diffusers' schedulers: `python tools/reference/schedulers.py` writes test/golden/schedulers/.

A loop is what the SDXL pipeline does round the network: noise from the picture's generator times init_noise_sigma, then
scale_model_input, network and step for every timestep. The network is a stand-in: either a function of its input or a
sequence of random tensors.
"""

import hashlib
import json
import platform
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

SDXL_CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "skip_prk_steps": True,
    "rescale_betas_zero_snr": False,
}

SAMPLERS = {
    "DDIM": (DDIMScheduler, {}),
    "K_EULER": (EulerDiscreteScheduler, {}),
    "K_EULER_ANCESTRAL": (EulerAncestralDiscreteScheduler, {}),
    "DPM_SOLVER_MULTISTEP": (DPMSolverMultistepScheduler, {}),
    "DPM_PLUS_PLUS_2M_KARRAS": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}

SHAPE = (1, 4, 2, 3)
PICTURE_SEED = 42
NETWORK_SEED = 7

ZERO_SNR = {"rescale_betas_zero_snr": True}
V = {"prediction_type": "v_prediction"}
X0 = {"prediction_type": "sample"}

# (changes of SDXL_CONFIG, numbers of steps, networks)
LOOPS = [
    ({}, [1, 2, 4, 10, 30], ["input", "random"]),
    (V, [10], ["input", "random"]),
    (X0, [10], ["input", "random"]),
    ({"timestep_spacing": "trailing"}, [1, 7, 10, 30], ["random"]),
    ({"timestep_spacing": "linspace"}, [1, 7, 10, 30], ["random"]),
    ({"timestep_spacing": "trailing", **V, **ZERO_SNR}, [1, 10, 30], ["random"]),
    ({"timestep_spacing": "leading", **ZERO_SNR}, [10], ["random"]),
    ({"timestep_spacing": "linspace", **X0, **ZERO_SNR}, [10], ["random"]),
    ({"steps_offset": 0, "set_alpha_to_one": True}, [10], ["random"]),
    ({"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}, [10], ["random"]),
    ({"num_train_timesteps": 400, "timestep_spacing": "trailing"}, [12], ["random"]),
]


def decimals(values) -> list[float]:
    """fp32 values as the shortest decimals that read back exactly."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32).flatten()]


def sha256(values) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()


def make(sampler: str, changes: dict):
    cls, options = SAMPLERS[sampler]
    return cls.from_config({**SDXL_CONFIG, **changes}, **options)


def loop(sampler: str, changes: dict, steps: int, network: str) -> dict:
    scheduler = make(sampler, changes)
    scheduler.set_timesteps(steps)
    # Karras sigmas at zero terminal SNR round to the same first timestep twice; diffusers would start at the second.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    picture = torch.Generator("cpu").manual_seed(PICTURE_SEED)
    weights = torch.Generator("cpu").manual_seed(NETWORK_SEED)
    latents = torch.randn(SHAPE, generator=picture) * scheduler.init_noise_sigma
    takes_generator = sampler == "K_EULER_ANCESTRAL"
    middle = None
    for index, t in enumerate(scheduler.timesteps):
        x = scheduler.scale_model_input(latents, t)
        out = x * t / (t + 1) if network == "input" else torch.randn(SHAPE, generator=weights)
        extra = {"generator": picture} if takes_generator else {}
        latents = scheduler.step(out, t, latents, **extra).prev_sample
        if index == (steps - 1) // 2:
            middle = latents
    assert torch.isfinite(latents).all(), (sampler, changes, steps, network)
    return {
        "sampler": sampler,
        "config": changes,
        "steps": steps,
        "network": network,
        "timesteps": decimals(scheduler.timesteps),
        "initNoiseSigma": decimals([float(scheduler.init_noise_sigma)])[0],
        "middle": decimals(middle),
        "latents": decimals(latents),
    }


def timestep_hashes() -> list[dict]:
    """All numbers of steps at once: one hash of the timesteps of 1, 2, … 200 steps after one another."""
    rows = []
    for sampler in SAMPLERS:
        for spacing in ("leading", "trailing", "linspace"):
            every = []
            for steps in range(1, 201):
                scheduler = make(sampler, {"timestep_spacing": spacing})
                scheduler.set_timesteps(steps)
                # At 61, 103, 121 and 122 trailing steps numpy's arange gives one entry too many, which is no timestep.
                every.append(np.asarray(scheduler.timesteps, dtype=np.float32)[:steps])
            rows.append({"sampler": sampler, "spacing": spacing, "sha256": sha256(np.concatenate(every))})
    return rows


def noise_schedules() -> list[dict]:
    rows = []
    for changes in ({}, ZERO_SNR, {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}, {"num_train_timesteps": 400, **ZERO_SNR}):
        alphas = make("DDIM", changes).alphas_cumprod.numpy()
        picked = [0, 1, 2, len(alphas) // 2, *range(len(alphas) - 12, len(alphas))]
        # The square roots of the rescaling come from a vector library that does not round to nearest: no hash there.
        exact = None if "rescale_betas_zero_snr" in changes else sha256(alphas)
        rows.append({"config": changes, "sha256": exact, "timesteps": picked, "alphasCumprod": decimals(alphas[picked])})
    return rows


def main() -> None:
    cases = []
    for sampler in SAMPLERS:
        for changes, step_counts, networks in LOOPS:
            if sampler == "K_EULER_ANCESTRAL" and changes.get("prediction_type") == "sample":
                continue  # not implemented there
            for steps in step_counts:
                cases.extend(loop(sampler, changes, steps, network) for network in networks)
    folder = Path(__file__).resolve().parents[2] / "test/golden/schedulers"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "loops.json", "w") as file:
        head = {
            "shape": SHAPE,
            "pictureSeed": PICTURE_SEED,
            "networkSeed": NETWORK_SEED,
            "noiseSchedules": noise_schedules(),
            "timesteps": timestep_hashes(),
            "cases": [],
        }
        file.write(json.dumps(head, separators=(",", ":"))[:-2] + "\n")
        file.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]}\n")
    (folder / "PROVENANCE.md").write_text(
        "# Sampling loops\n\n"
        "Made by `python tools/reference/schedulers.py` with "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, numpy {np.__version__}.\n"
        f"Noise: seed {PICTURE_SEED}, first the latents, then the noise of the steps. Random network: seed {NETWORK_SEED}.\n"
    )


if __name__ == "__main__":
    main()
