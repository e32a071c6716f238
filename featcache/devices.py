"""Which device to compute on."""

from __future__ import annotations

import torch

from featcache.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The named device; `auto` is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # some devices (meta) make tensors but no numbers
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    return device
