"""Which device to compute on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from featcache.errors import ConfigError


def at_hand(device: torch.device) -> torch.device:
    """The device, or the CPU where it is a GPU of other machines."""
    return torch.device("cpu") if device.type == "cuda" and not torch.cuda.is_available() else device


def pick_device(name: str, number: int = 0) -> torch.device:
    """The named device; `auto` is CUDA where there is one, of several the GPU for process `number`, else the CPU."""
    if name == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus > 1:
            return torch.device("cuda", number % gpus)
        return torch.device("cuda" if gpus else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # some devices (meta) make tensors but no numbers
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    return device


_DEVICE_OF = {"tf32": "cuda", "bf16": "cpu"}
"""What torch has each kind of product on; on the other it would do nothing."""
_PRECISION = {"fp32": "highest", "tf32": "high", "bf16": "medium"}


def check_products(kind: str, device: torch.device) -> None:
    """Raises ConfigError where products of this kind (recipes.PRODUCTS) would be float32 all the same."""
    able = _DEVICE_OF.get(kind, device.type)
    if able != device.type:
        other = next(name for name, place in _DEVICE_OF.items() if place != able)
        raise ConfigError(
            f"--products {kind} is for {able}, and this runs on {device.type}; there it is {other}, or fp32"
        )
    if kind == "bf16" and not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise ConfigError("--products bf16 needs torch's oneDNN (mkldnn), which this build lacks; use fp32")


@contextmanager
def products(kind: str) -> Iterator[None]:
    """Matrix products of float32 tensors are taken so inside, in every thread."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_PRECISION[kind])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def machine(device: str) -> dict[str, str | int]:
    """What decides the last bits of a number beside the versions: the processor or GPU, and the number of threads."""
    told: dict[str, str | int] = {"processor": _processor(), "threads": torch.get_num_threads()}
    if torch.device(device).type == "cuda":
        told["gpu"] = torch.cuda.get_device_name(device)
    return told


def _processor() -> str:
    """The processor's model where the system tells it, else its family."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
