"""Which device to compute on."""

from __future__ import annotations

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
