"""What ships inside the package: the `shapes` data set's renderer and the `tiny` backbone's weights.

drawing.py     hashes, outlines, fills, blur: planes of numbers, the same on every machine
scenes.py      what a picture shows, and its random variation
rendering.py   a scene's pixels
captions.py    the classes, the subjects held out for them, the caption grammar
shapes.py      the data set: classes, splits, paths, read
tiny.json, tiny.safetensors   an open_clip model, trained by benchmarks/train_tiny.py
"""
