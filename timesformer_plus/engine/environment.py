"""What a number depends on besides its configuration: versions, commit, machine, processes, data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # accelerate needs it too
import torch
import torch.distributed

PACKAGES = (
    "timesformer-plus",
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "numpy",
    "safetensors",
    "jsonargparse",
    "decord",
    "av",
    "torchcodec",
    "pytorchvideo",
    "tensorboard",
    "wandb",
    "trackio",
)

# variables that change numbers, speed or which devices are seen; none of them holds a secret
_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "NCCL_ALGO",
    "NCCL_P2P_DISABLE",
    "TIMM_FUSED_ATTN",
)


def describe_environment(
    *, device: torch.device, world_size: int, seed: int, data: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What else a number depends on.

    Args:
        device: The device that this process computes on.
        world_size: Number of processes.
        seed: The run's seed.
        data: Digest of every split, by its name (see ``manifest_digest``).

    Returns:
        Something for JSON; sizes of memory are in GB (10^9 bytes). Machine and devices are those of this process's
        node.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in PACKAGES},
        "git": git_state(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} ({os.cpu_count()} cores)",
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "seed": seed,
        "command": sys.argv,
        "distributed": _distributed(world_size),
        "hardware": _hardware(),
        "numerics": _numerics(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "data": dict(data or {}),
    }


def _distributed(world_size: int) -> dict[str, Any]:
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return {
        "backend": torch.distributed.get_backend() if joined else None,
        "processes_here": here,
        "nodes": -(-world_size // here),
    }


def _hardware() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        # what this process may use of them: a container or a batch system often gives less
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _gigabytes(psutil.virtual_memory().total),
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
    }


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gb": _gigabytes(properties.total_memory),
        "capability": f"{properties.major}.{properties.minor}",
    }


def _cpu_name() -> str:
    try:  # platform.processor() is empty on most Linux systems
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _numerics() -> dict[str, Any]:
    """Switches of torch and its libraries that trade exactness for speed, or decide in which order sums are taken."""
    return {
        # read when MKL is first used: set later, it counts for child processes only
        "mkl_cbwr": os.environ.get("MKL_CBWR", "unset"),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
    }


def _gigabytes(size: int) -> float:
    return round(size / 1e9, 1)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """Commit of this package's source and whether files differ from it; ``None`` outside a repository."""

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
        return answer.stdout.strip()

    try:
        # an installed package may lie inside somebody else's repository (.venv): only a tracked file has its commit
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None
