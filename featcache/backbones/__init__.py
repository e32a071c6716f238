"""A name -> a frozen dual encoder: image tower, text tower, logit scale, and the identity that keys a store.

open_clip is the only source of towers; the bundled `tiny` is one more of its model configs. What is meant is told by
the name alone (`names`), then its files are located (`files`, `hub`), and only then is a model built (`building`).
Identities are noted by the files' paths, sizes and times (`memo`).
"""

from featcache.backbones.backbone import Backbone
from featcache.backbones.identity import Identity
from featcache.backbones.names import known

__all__ = ["Backbone", "Identity", "known"]
