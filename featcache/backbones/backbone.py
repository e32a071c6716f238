"""One frozen dual encoder, built only when something must be encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones import building, memo
from featcache.backbones.files import Files, locate, model_config
from featcache.backbones.identity import Identity, identify
from featcache.backbones.names import parse
from featcache.errors import ConfigError

if TYPE_CHECKING:
    import torch

_TEXTS = {True: 256, False: 8}
"""Sentences a batch: many on CUDA; elsewhere a few, whose 600 tokens keep the cores as busy, for the last is padded."""


class Backbone:
    """One frozen dual encoder; the model is built only when something must be encoded.

    `name`: `tiny`, OpenAI's short names, any architecture of open_clip or `ARCHITECTURE/TAG`, `hf-hub:OWNER/REPO`,
    `local-dir:PATH`. `weights`: None for the name's default, a pretrained tag of open_clip, a checkpoint file, or
    `random:SEED`. `precision`: `fp32`, `bf16` or `fp16`, of both towers; embeddings come back float32 in any case.
    With `-compiled` after it the image tower goes through torch.compile: a precision of its own, since rows may differ
    in their last bits.
    Raises UnknownNameError and ConfigError for names that mean nothing.
    """

    def __init__(self, name: str, weights: str | None = None, precision: str = "fp32") -> None:
        self.name = name
        self._choice = parse(name, weights, precision)
        self.architecture = self._choice.architecture
        self.weights = weights or self._choice.weights  # as typed: a file's folder is the machine's own affair
        self.precision = precision

    @cached_property
    def identity(self) -> Identity:
        """The backbone's identity, from the memo where no file of it has changed since."""
        return memo.recall(self._choice) or self._remember()

    @cached_property
    def model(self) -> torch.nn.Module:
        """The built model in evaluation mode, on the CPU at first."""
        return building.build(self._choice, self._files)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, D) raw float32 embeddings of normalised pixels (b, 3, size, size). Raises ConfigError."""
        import torch

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self._choice.arithmetic]
        with torch.inference_mode(), self._precision_explained(pixels.device):
            return self._image_tower(pixels.to(dtype)).float()

    @cached_property
    def _image_tower(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Pixels -> raw embeddings; compiled where that was asked for, at the first batch and for its shape."""
        import torch

        model: Any = self.model

        def tower(pixels: torch.Tensor) -> torch.Tensor:
            # Said outright: CoCa's towers normalise unless told not to.
            embedding: torch.Tensor = model.encode_image(pixels, normalize=False)
            return embedding

        return torch.compile(tower, dynamic=False) if self._choice.compiled else tower

    def encode_texts(self, sentences: Sequence[str], device: torch.device) -> NDArray[np.float32]:
        """(T, D) raw embeddings of sentences; raises DataError for one beyond the text tower's context.

        Like images in batches of one shape, the last padded, so a sentence does not hang on how many there are.
        """
        import torch

        tokens = self.tokens(sentences)
        batch = _TEXTS[device.type == "cuda"]
        padded = torch.cat([tokens, tokens[-1:].expand(-len(tokens) % batch, -1)])
        model = self.model.to(device)
        with torch.inference_mode(), self._precision_explained(device):
            rows = [
                model.encode_text(part.to(device), normalize=False).float()  # type: ignore[operator]
                for part in torch.split(padded, batch)
            ]
        embedding: NDArray[np.float32] = torch.cat(rows)[: len(tokens)].cpu().numpy()
        return embedding

    def tokens(self, sentences: Sequence[str]) -> torch.Tensor:
        """(T, context) tokens of sentences; raises DataError for one beyond the text tower's context."""
        return building.tokens_of(self._tokenizer, sentences, self.name)

    @cached_property
    def _files(self) -> Files:
        """Located once: what is hashed is what is built, even if the hub's cache moves on meanwhile."""
        return locate(self._choice)

    @cached_property
    def _tokenizer(self) -> Any:
        return building.tokenizer(self._choice, self._files)

    def _remember(self) -> Identity:
        """The identity read off the built model, and noted for next time."""
        config = model_config(self._choice, self._files)
        _ = self._tokenizer  # one that is lacking is told before the images are encoded
        identity = identify(self._choice, self._files, config=config, model=self.model)
        memo.note(self._choice, self._files, identity)
        return identity

    @contextmanager
    def _precision_explained(self, device: torch.device) -> Iterator[None]:
        """Turns the error of a precision that the device or the tower does not compute in into one that says so."""
        try:
            yield
        except RuntimeError as error:
            if self.precision == "fp32" or "memory" in str(error).lower():
                raise
            raise ConfigError(
                f"{self.architecture} does not run in {self.precision} on {device.type} ({str(error)[:200]}); "
                "use --precision fp32"
            ) from error
