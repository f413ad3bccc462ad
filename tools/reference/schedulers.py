"""Golden sampling loops of diffusers' schedulers: `python tools/reference/schedulers.py` writes test/golden/schedulers/.

A loop is what the SDXL pipeline does round the network: noise from the picture's generator times init_noise_sigma (or, from
the middle, a picture with noise), then scale_model_input, network and step for every timestep. The network is a stand-in:
either a function of its input or a sequence of random tensors.
"""

import base64
import hashlib
import inspect
import json
import platform
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

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

KARRAS = {"use_karras_sigmas": True}
MULTISTEP = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False}
SDE = MULTISTEP | {"algorithm_type": "sde-dpmsolver++"}
SINGLESTEP = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "lower_order_final": False}
UNI_PC = {"solver_order": 2, "solver_type": "bh2", "predict_x0": True, "lower_order_final": True, "disable_corrector": []}

# A sampler's name fixes the class and the options of its solver; the rest is the model's.
SAMPLERS = {
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {"variance_type": "fixed_small"}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "K_EULER": ("EulerDiscreteScheduler", {}),
    "K_EULER_ANCESTRAL": ("EulerAncestralDiscreteScheduler", {}),
    "DPM_SOLVER_MULTISTEP": ("DPMSolverMultistepScheduler", MULTISTEP),
    "DPM_PLUS_PLUS_2M_KARRAS": ("DPMSolverMultistepScheduler", MULTISTEP | KARRAS),
    "DPM_PLUS_PLUS_2M_SDE": ("DPMSolverMultistepScheduler", SDE),
    "DPM_PLUS_PLUS_2M_SDE_KARRAS": ("DPMSolverMultistepScheduler", SDE | KARRAS),
    "DPM_SINGLE": ("DPMSolverSinglestepScheduler", SINGLESTEP),
    "UNI_PC": ("UniPCMultistepScheduler", UNI_PC),
    "LCM": ("LCMScheduler", {"original_inference_steps": 50, "timestep_scaling": 10.0}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "K_HEUN": ("HeunDiscreteScheduler", {}),
    "DPM_2_KARRAS": ("KDPM2DiscreteScheduler", KARRAS),
    "DPM_2_ANCESTRAL_KARRAS": ("KDPM2AncestralDiscreteScheduler", KARRAS),
    "KLMS": ("LMSDiscreteScheduler", {}),
    "HEUN": ("HeunDiscreteScheduler", {}),
    "DPM_2": ("KDPM2DiscreteScheduler", {}),
    "DPM_2_ANCESTRAL": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM_PLUS_PLUS_SDE_KARRAS": ("DPMSolverSDEScheduler", KARRAS),
}

# The same classes with the same options at another price.
ALIASES = {"KLMS": "LMS", "HEUN": "K_HEUN"}

# The reference has no prediction of the sample in these classes.
NEED_NOISE = {"PNDMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"}
# These step over the cumulative products themselves, which are 0 at zero terminal SNR.
OVER_ALPHA = {"DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler"}

SHAPE = (1, 4, 2, 3)
PICTURE_SEED = 42
NETWORK_SEED = 7
ORIGINAL_SEED = 3

V = {"prediction_type": "v_prediction"}
X0 = {"prediction_type": "sample"}
ZERO_SNR = {"rescale_betas_zero_snr": True}
TRAILING = {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}

# (changes of SDXL_CONFIG, numbers of steps, networks, first steps)
RANDOM, INPUT = "random", "input"
LOOPS = [
    ({}, [1, 2, 3, 4, 10, 25, 50], [RANDOM], [0]),
    ({}, [10, 25], [INPUT], [0]),
    (V, [10, 25], [RANDOM, INPUT], [0]),
    (X0, [10, 25], [RANDOM], [0]),
    *[(spacing | kind, [10, 25], [RANDOM], [0]) for spacing in (TRAILING, LINSPACE) for kind in ({}, V, X0)],
    (TRAILING, [1, 7], [RANDOM], [0]),
    (LINSPACE, [1], [RANDOM], [0]),
    (TRAILING | V | ZERO_SNR, [1, 10, 25], [RANDOM], [0]),
    (TRAILING | X0 | ZERO_SNR, [10], [RANDOM], [0]),
    (ZERO_SNR, [10], [RANDOM], [0]),
    (LINSPACE | V | ZERO_SNR, [10], [RANDOM], [0]),
    ({"steps_offset": 0, "set_alpha_to_one": True}, [10], [RANDOM], [0]),
    (LINEAR, [10], [RANDOM], [0]),
    ({"num_train_timesteps": 400} | TRAILING, [12], [RANDOM], [0]),
    (KARRAS, [1, 10, 25], [RANDOM], [0]),
    (KARRAS | TRAILING | V, [10], [RANDOM], [0]),
    ({"final_sigmas_type": "sigma_min"}, [1, 10, 11, 15, 16], [RANDOM], [0]),
    ({"final_sigmas_type": "sigma_min"} | KARRAS, [16], [RANDOM], [0]),
    ({"clip_sample": True, "clip_sample_range": 1.5}, [10], [RANDOM], [0]),
    ({}, [10], [RANDOM], [1, 2, 3, 4, 9]),
    (V | TRAILING, [25], [INPUT], [10]),
    (V | TRAILING | ZERO_SNR, [10], [RANDOM], [4]),
    (KARRAS, [10], [RANDOM], [5]),
]


def decimals(values) -> list[float]:
    """fp32 values as the shortest decimals that read back exactly."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32).flatten()]


def packed(values) -> str:
    """fp32 values, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def sha256(values) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()


def from_config(sampler: str, config: dict):
    """The scheduler of a sampler for a model's scheduler configuration."""
    name, options = SAMPLERS[sampler]
    cls = getattr(diffusers, name)
    scheduler = cls.from_config(config, **options)
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in inspect.signature(cls.__init__).parameters:
        # Classes without the option get the betas that it stands for, and the guard that the others have.
        betas = rescale_zero_terminal_snr(scheduler.betas)
        scheduler = cls.from_config(config, **options, trained_betas=betas.tolist())
        if name not in OVER_ALPHA:
            scheduler.alphas_cumprod[-1] = 2**-24
    return scheduler


def make(sampler: str, changes: dict):
    return from_config(sampler, {**SDXL_CONFIG, **changes})


class BrownianMotion:
    """Stands in for the reference's Brownian tree: increments over sigma from the picture's own generator.

    Unit normal noise for (from, middle) and then for (from, to) of each step; the second contains the first.
    """

    def __init__(self, generator: torch.Generator, shape):
        self.draw = lambda: torch.randn(shape, generator=generator)
        self.first = None

    def __call__(self, start, end):
        if self.first is None:
            self.first = (self.draw(), end)
            return self.first[0]
        first, middle = self.first
        self.first = None
        shares = [float(start - middle) / float(start - end), float(middle - end) / float(start - end)]
        return first * shares[0] ** 0.5 + self.draw() * shares[1] ** 0.5


def loop(sampler: str, changes: dict, steps: int, network: str, first_step: int) -> dict | None:
    name = SAMPLERS[sampler][0]
    scheduler = make(sampler, changes)
    scheduler.set_timesteps(steps)
    begin = first_step * scheduler.order
    timesteps = scheduler.timesteps[begin:]
    # Karras sigmas at zero terminal SNR round to the same first timestep twice; diffusers would start at the second.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    picture = torch.Generator("cpu").manual_seed(PICTURE_SEED)
    weights = torch.Generator("cpu").manual_seed(NETWORK_SEED)
    noise = torch.randn(SHAPE, generator=picture)
    if begin == 0:
        latents = noise * scheduler.init_noise_sigma
    else:
        original = torch.randn(SHAPE, generator=torch.Generator("cpu").manual_seed(ORIGINAL_SEED))
        latents = scheduler.add_noise(original, noise, timesteps[:1])
    noisy = latents
    if name == "DPMSolverSDEScheduler":
        scheduler.noise_sampler = BrownianMotion(picture, SHAPE)
    extra = {"generator": picture} if "generator" in inspect.signature(scheduler.step).parameters else {}
    middle = None
    for index, t in enumerate(timesteps):
        x = scheduler.scale_model_input(latents, t)
        out = x * t / (t + 1) if network == INPUT else torch.randn(SHAPE, generator=weights)
        latents = scheduler.step(out, t, latents, **extra).prev_sample
        if index == (len(timesteps) - 1) // 2:
            middle = latents
    if not torch.isfinite(latents).all():
        print("not finite:", sampler, changes, steps, network, first_step)
        return None
    return {
        "sampler": sampler,
        "config": changes,
        "steps": steps,
        "network": network,
        "begin": begin,
        **({"noisy": packed(noisy)} if begin else {"timesteps": packed(scheduler.timesteps), "initNoiseSigma": decimals([float(scheduler.init_noise_sigma)])[0]}),
        "middle": packed(middle),
        "latents": packed(latents),
    }


def refused(sampler: str, changes: dict) -> bool:
    """Where the reference raises or divides by zero; Sepia says so before it starts."""
    name = SAMPLERS[sampler][0]
    kind = changes.get("prediction_type", "epsilon")
    if kind == "sample" and name in NEED_NOISE:
        return True
    starts_at_zero = changes.get("rescale_betas_zero_snr") and (changes.get("timestep_spacing") in ("trailing", "linspace") or name == "LCMScheduler")
    return bool(starts_at_zero and (name == "PNDMScheduler" or (name in OVER_ALPHA and kind == "epsilon")))


def timestep_hashes() -> list[dict]:
    """All numbers of steps at once: one hash of the timesteps of 1, 2, … steps after one another."""
    rows = []
    for sampler in SAMPLERS:
        if SAMPLERS[sampler][0] in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"):
            continue  # fractional by way of logarithms: compared in the loops
        for spacing in ("leading", "trailing", "linspace"):
            every = []
            most = 50 if sampler == "LCM" else 200
            for steps in range(1, most + 1):
                scheduler = make(sampler, {"timestep_spacing": spacing})
                scheduler.set_timesteps(steps)
                # At 61, 103, 121 and 122 trailing steps numpy's arange gives one entry too many, which is no timestep.
                every.append(np.array([t for t in scheduler.timesteps.tolist() if t >= 0], dtype=np.float32))
            rows.append({"sampler": sampler, "spacing": spacing, "steps": most, "sha256": sha256(np.concatenate(every))})
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
    # Options that a class does not know, and the precision of LMS's integrals.
    diffusers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    cases = [
        case
        for sampler in SAMPLERS
        if sampler not in ALIASES
        for changes, step_counts, networks, first_steps in LOOPS
        if not refused(sampler, changes)
        for steps in step_counts
        for network in networks
        for first_step in first_steps
        if (case := loop(sampler, changes, steps, network, first_step))
    ]
    folder = Path(__file__).resolve().parents[2] / "test/golden/schedulers"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "loops.json", "w") as file:
        head = {
            "shape": SHAPE,
            "pictureSeed": PICTURE_SEED,
            "networkSeed": NETWORK_SEED,
            "originalSeed": ORIGINAL_SEED,
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
        f"Noise: seed {PICTURE_SEED}, first the latents, then the noise of the steps. Random network: seed {NETWORK_SEED}. "
        f"The picture that runs from the middle start with: seed {ORIGINAL_SEED}.\n"
    )


if __name__ == "__main__":
    main()
