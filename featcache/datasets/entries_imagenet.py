"""The catalogue's ImageNet and its four shifts, in CoOp's folders.

Lengths and SHA-256 sums of the shifts' archives: the checksum lists of TensorFlow Datasets.
"""

from __future__ import annotations

from typing import Final

from featcache.datasets.about import About, Download
from featcache.datasets.entries_coop import drive
from featcache.datasets.imagenet import IMAGENET as IMAGENET_FOLDER
from featcache.datasets.imagenet import NumberedFolders, WordNetFolders

IMAGENET: Final = WordNetFolders(
    folder=IMAGENET_FOLDER,
    splits={"train": "images/train", "test": "images/val"},
    about=About(
        title="ImageNet (ILSVRC 2012)",
        licence="ImageNet's own: non-commercial research and education",
        link="https://image-net.org/",
        num_classes=1000,
        sizes={"train": 1_281_167, "test": 50_000},
        downloads=(drive("classnames.txt", "1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF"),),
        by_hand="""\
ImageNet is given to registered users only. Log in at https://image-net.org/download-images, choose ILSVRC 2012, and put
  ILSVRC2012_img_train.tar  (147,897,477,120 bytes, md5 1d675b47d978889d74fa0da5fadfb00e)
  ILSVRC2012_img_val.tar    (6,744,924,160 bytes, md5 29b22e2961454d5413ddabcf34fc5622)
into imagenet/. Then, in imagenet/:
  mkdir -p images/train images/val
  tar -xf ILSVRC2012_img_train.tar -C images/train
  (cd images/train && for f in n*.tar; do mkdir "${f%.tar}" && tar -xf "$f" -C "${f%.tar}" && rm "$f"; done)
  tar -xf ILSVRC2012_img_val.tar -C images/val
  curl -fLO https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh
  (cd images/val && bash ../../valprep.sh)
so that images/train/n01440764/ and images/val/n01440764/ are there; valprep.sh moves each validation image into the
folder of its class, and featcache takes them as the test split. Where the images lie elsewhere already, links at
images/train and images/val will do.""",
    ),
)

IMAGENETV2: Final = NumberedFolders(
    folder="imagenetv2",
    images="imagenetv2-matched-frequency-format-val",
    about=About(
        title="ImageNetV2 (matched frequency)",
        licence="MIT",
        link="https://github.com/modestyachts/ImageNetV2",
        num_classes=1000,
        sizes={"test": 10_000},
        downloads=(
            Download(
                url="https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
                file="imagenetv2-matched-frequency.tar.gz",
                checksum="sha256:f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
                size_bytes=1_264_079_360,
                unpack="",
            ),
        ),
    ),
)

IMAGENET_SKETCH: Final = WordNetFolders(
    folder="imagenet-sketch",
    splits={"test": "images"},
    about=About(
        title="ImageNet-Sketch",
        licence="not stated; its repository is MIT",
        link="https://github.com/HaohanWang/ImageNet-Sketch",
        num_classes=1000,
        sizes={"test": 50_889},
        downloads=(
            Download(
                url="https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",
                file="ImageNet-Sketch.zip",
                unpack="images",
                strip="sketch/",
            ),
        ),
    ),
)

IMAGENET_A: Final = WordNetFolders(
    folder="imagenet-adversarial",
    splits={"test": "imagenet-a"},
    about=About(
        title="ImageNet-A (natural adversarial examples), 200 classes",
        licence="MIT",
        link="https://github.com/hendrycks/natural-adv-examples",
        num_classes=200,
        sizes={"test": 7_500},
        downloads=(
            Download(
                url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
                file="imagenet-a.tar",
                checksum="sha256:3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
                size_bytes=687_552_512,
                unpack="",
            ),
        ),
    ),
)

IMAGENET_R: Final = WordNetFolders(
    folder="imagenet-rendition",
    splits={"test": "imagenet-r"},
    about=About(
        title="ImageNet-R (renditions), 200 classes",
        licence="MIT",
        link="https://github.com/hendrycks/imagenet-r",
        num_classes=200,
        sizes={"test": 30_000},
        downloads=(
            Download(
                url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
                file="imagenet-r.tar",
                checksum="sha256:18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
                size_bytes=2_191_079_936,
                unpack="",
            ),
        ),
    ),
)
