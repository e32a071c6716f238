"""The store: one HDF5 file of embeddings, keyed by everything that decides their meaning."""

from featcache.store.reading import Store
from featcache.store.spec import Spec, Tower
from featcache.store.writing import Block, Contents, SplitContents, write_store

__all__ = ["Block", "Contents", "Spec", "SplitContents", "Store", "Tower", "write_store"]
