"""CoOp written out: one run, one class after the other, every sentence at the tower's full length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def text(model: Any, tokenizer: Any, names: Sequence[str], context: Tensor, position: str) -> Tensor:
    """(C, D) unit text weights with context (M, W), or (C, M, W) of each class's own; `model` is open_clip's CLIP."""
    rows = []
    for index, name in enumerate(names):
        own = context if context.dim() == 2 else context[index]
        rows.append(_encode(model, tokenizer, name, own, position))
    return F.normalize(torch.stack(rows), dim=1)


def _encode(model: Any, tokenizer: Any, name: str, context: Tensor, position: str) -> Tensor:
    """(D,) of one sentence."""
    number = len(context)
    tokens = tokenizer([" ".join(["X"] * number + [name + "."])])
    words = model.token_embedding(tokens)[0]  # (L, W)
    start, rest = words[:1], words[1 + number :]
    length = len(tokenizer.encode(name))
    if position == "end":
        pieces = [start, context, rest]
    elif position == "front":
        pieces = [start, rest[:length], context, rest[length:]]
    else:
        half = number // 2
        pieces = [start, context[:half], rest[:length], context[half:], rest[length:]]
    rows = torch.cat(pieces) + model.positional_embedding
    rows = model.ln_final(model.transformer(rows[None], attn_mask=model.attn_mask))[0]
    return rows[tokens.argmax()] @ model.text_projection  # type: ignore[no-any-return]


def losses(
    model: Any,
    tokenizer: Any,
    names: Sequence[str],
    context: Tensor,
    position: str,
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    lr: float,
) -> tuple[list[float], Tensor]:
    """The loss at each batch of images (b, D) and labels (b,) under SGD as CoOp sets it, and the context at the end."""
    learnt = context.clone().requires_grad_()
    optimiser = torch.optim.SGD([learnt], lr=lr, momentum=0.9, weight_decay=5e-4)
    found = []
    for image, label in batches:
        weights = text(model, tokenizer, names, learnt, position)
        logits = model.logit_scale.exp() * F.normalize(image, dim=1) @ weights.T
        loss = F.cross_entropy(logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found, learnt.detach()
