"""Device, driver and package versions of a run. Knows no measurement."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from ray_jobs.job.environment import environment

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "xformers",
    "diffusers",
    "transformers",
    "accelerate",
    "lightning",
    "timm",
    "numpy",
)


def facts(on_gpu: bool, commit: str) -> dict[str, str]:
    """Return commit, machine, date, device, driver and versions; an empty commit is read from the repository."""
    found = environment()
    return (
        found
        | {"commit": commit or found["commit"]}
        | (gpu_facts() if on_gpu else {"device": "CPU with tiny models: no measure of speed"})
        | {"python": platform.python_version()}
        | {name: installed(name) for name in PACKAGES}
    )


def gpu_facts() -> dict[str, str]:
    """Return the GPU's name and memory, its driver, and the CUDA and cuDNN that torch was built with."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {properties.multi_processor_count} SMs",
        "driver": driver(),
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }


def driver() -> str:
    """Return the NVIDIA driver's version; `unknown` if nvidia-smi fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return ran.stdout.strip().splitlines()[0]


def installed(name: str) -> str:
    """Return a package's version, or `not installed`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
