"""Facts about the device, driver and packages with which a benchmark ran."""

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
    """Return the commit (if empty, that of the checkout), machine, date, device, driver and versions."""
    found = environment()
    return (
        found
        | {"commit": commit or found["commit"]}
        | (gpu_facts() if on_gpu else {"device": "CPU with tiny models: no measure of speed"})
        | {"python": platform.python_version()}
        | {name: installed(name) for name in PACKAGES}
    )


def gpu_facts() -> dict[str, str]:
    """Return the first GPU's name and size, and the versions of its driver, of torch's CUDA and of the loaded cuDNN."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {properties.multi_processor_count} SMs",
        "driver": driver(),
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }


def driver() -> str:
    """Return the version of the NVIDIA driver, or `unknown` if nvidia-smi fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return ran.stdout.strip().splitlines()[0]


def installed(name: str) -> str:
    """Return the version of a Python package, or `not installed`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
