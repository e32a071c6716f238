"""The frozen text tower as a function of token embeddings, so that some of them can be learnt (CoOp)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcache.errors import ConfigError, DataError

_PROBE = "a photo of a dog."
_PLACEHOLDER = "X"  # one token, whose embedding is never used


class Sentences(NamedTuple):
    """C class names in sentences with M open places for context; the longest has L tokens."""

    embedding: Tensor
    """(C, L, W) of the fixed tokens; anything at the open places."""
    place: Tensor
    """(C, L) which context vector stands there, M at fixed tokens."""
    end: Tensor
    """(C,) where each sentence ends: its embedding is read off there."""

    def filled(self, context: Tensor) -> Tensor:
        """(R C, L, W) with context (R, M, W), or (R, C, M, W) of each class's own, in the open places."""
        num_classes, num_tokens = self.place.shape
        index = self.place.clamp_max(context.shape[-2] - 1)
        if context.dim() == 3:
            learnt = context[:, index]  # (R, C, L, W)
        else:
            learnt = context[:, torch.arange(num_classes, device=index.device)[:, None], index]
        is_fixed = (self.place == context.shape[-2])[..., None]
        return torch.where(is_fixed, self.embedding, learnt).view(-1, num_tokens, context.shape[-1])


class TextTower:
    """CLIP's text transformer, frozen, without its look-up of tokens.

    `model` is open_clip's, `tokens` what makes (T, context) tokens of sentences. Raises ConfigError for a tower that
    is built otherwise: it is tried on a sentence here.
    """

    def __init__(self, model: Any, tokens: Any, name: str) -> None:
        self._parts = getattr(model, "text", model)  # open_clip has two layouts
        self._tokens = tokens
        self._name = name
        self._try_out(model)
        self.sentences = lru_cache(maxsize=32)(self._sentences)  # asked for at every step

    @property
    def width(self) -> int:
        """W, of the token embeddings."""
        return int(self._parts.token_embedding.weight.shape[1])

    def embed(self, words: str) -> Tensor:
        """(M, W) the embeddings of the words' tokens. Raises ConfigError for none."""
        tokens = self._tokens([words])
        count = self._length(tokens)[0]
        if not count:
            raise ConfigError(f"context {words!r} holds no word")
        found: Tensor = self._look_up(tokens)[0, 1 : 1 + count]
        return found

    def _sentences(self, names: Sequence[str], num_context: int, position: str) -> Sentences:
        """`names` in sentences with `num_context` open places, as CoOp composes them: the name, a full stop, the end.

        Raises ConfigError for sentences beyond the tower's context.
        """
        try:
            tokens = self._tokens([f"{' '.join([_PLACEHOLDER] * num_context)} {name}." for name in names])
        except DataError as error:
            raise ConfigError(
                f"{num_context} context vectors and the longest of the class names are more than the text tower of "
                f"{self._name} reads ({error}); take fewer, as in --grid context=4"
            ) from error
        end = tokens.argmax(dim=1)  # the end token has the highest number
        order = torch.stack(
            [_order(position, num_context, count, tokens.shape[1]) for count in self._length(self._tokens(list(names)))]
        )  # (C, context): which token of CoOp's "X X .. name." stands at each place
        is_open = (order >= 1) & (order <= num_context)
        place = torch.where(is_open, order - 1, num_context)
        kept = int(end.max()) + 1 if self._causal else tokens.shape[1]  # what comes after the end cannot reach it
        embedding = self._look_up(tokens.gather(1, order))
        device = embedding.device
        return Sentences(embedding[:, :kept], place[:, :kept].to(device), end.to(device))

    def encode(self, embedding: Tensor, end: Tensor) -> Tensor:
        """(n, D) raw text embeddings of token embeddings (n, L, W) that end at (n,); differentiable in the former."""
        parts, length = self._parts, embedding.shape[1]
        dtype = parts.transformer.get_cast_dtype()
        rows = embedding.to(dtype) + parts.positional_embedding[:length].to(dtype)
        mask = parts.attn_mask[:length, :length] if self._causal else None
        rows = parts.ln_final(parts.transformer(rows, attn_mask=mask))  # (n, L, W)
        rows = rows[torch.arange(len(rows), device=rows.device), end]  # (n, W)
        projection = parts.text_projection
        if isinstance(projection, torch.nn.Linear):
            rows = projection(rows)
        elif projection is not None:
            rows = rows @ projection
        text: Tensor = rows.float()
        return text

    @property
    def _causal(self) -> bool:
        return self._parts.attn_mask is not None

    def _look_up(self, tokens: Tensor) -> Tensor:
        """(T, context, W) float32."""
        weight = self._parts.token_embedding.weight
        return torch.nn.functional.embedding(tokens.to(weight.device), weight).float()

    def _length(self, tokens: Tensor) -> list[int]:
        """How many tokens each sentence has between its start and its end."""
        lengths: list[int] = (tokens.argmax(dim=1) - 1).tolist()
        return lengths

    @torch.no_grad()
    def _try_out(self, model: Any) -> None:
        tokens = self._tokens([_PROBE])
        try:
            rows = self._look_up(tokens)
            ours = self.encode(rows, tokens.argmax(dim=1).to(rows.device))
            theirs = model.encode_text(tokens.to(rows.device), normalize=False).float()
            same = torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.std()))
        except (AttributeError, TypeError, RuntimeError) as error:
            raise self._unknown(str(error)) from error
        if not same:
            raise self._unknown("it embeds a sentence otherwise")

    def _unknown(self, why: str) -> ConfigError:
        return ConfigError(
            f"the text tower of {self._name} is not built as CLIP's ({why[:200]}), so no prompt can be learnt through "
            "it; take a CLIP backbone, such as RN50 or ViT-B-32"
        )


def _order(position: str, num_context: int, name_length: int, num_tokens: int) -> Tensor:
    """(num_tokens,) places of the tokens start, context, name, rest in the order that `position` asks for."""
    context = list(range(1, 1 + num_context))
    name = list(range(1 + num_context, 1 + num_context + name_length))
    half = num_context // 2
    moved = {"end": context + name, "middle": context[:half] + name + context[half:], "front": name + context}
    head = [0, *moved[position]]
    return torch.tensor([*head, *range(len(head), num_tokens)])
