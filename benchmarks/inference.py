"""Milliseconds that the prediction of one image takes with `tiny`, on a ready tensor, in three ways that take turns.

    python benchmarks/inference.py LIST      run by coop.py

`stored text`: the image tower and a product with classifier weights (zero-shot, linear probe, CoOp once its text is
kept). `adapter`: the same with CLIP-Adapter's bottleneck between. `both towers`: every class's sentence is encoded
again for the image, as CoOp's published code does. The last line printed is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import as_published
import common
import torch
import torch.nn.functional as F

from featcache.backbones import Backbone


def main() -> None:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 50)
    common.add_device(made)
    made.add_argument("list", type=Path)
    asked = common.options(made)
    listed = json.loads(asked.list.read_text(encoding="utf-8"))
    backbone = Backbone("tiny")
    clip: Any = backbone.model.to(asked.device)
    facts = (clip, backbone.tokens, listed["classes"], listed["template"])
    adapter, coop = (as_published.METHODS[name](*facts).to(asked.device) for name in ("clip_adapter", "coop"))
    pixels = as_published.images(listed, "test", clip)[0][0][None].to(asked.device)
    scale = clip.logit_scale.exp()
    text = adapter.text
    ways = {
        "stored text": lambda: scale * F.normalize(clip.encode_image(pixels), dim=1) @ text.T,
        "adapter": lambda: adapter(pixels),
        "both towers": lambda: coop(pixels),
    }
    with torch.inference_mode():
        seconds, _ = common.turns(ways, asked.repeats, asked.device, warm_up=3)
    told = {name: common.summary([1000 * value for value in values]) for name, values in seconds.items()}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
