"""The catalogue's ten data sets beside ImageNet: folders, split files and single templates as CoOp lays them out.

Layout: DATASETS.md, datasets/*.py and trainers/zsclip.py of CoOp. Addresses and MD5 sums of archives: torchvision's
data set classes; FGVC Aircraft's, which torchvision does not state, is what several peers state. Lengths: the checksum
lists of TensorFlow Datasets. The SHA-256 sums and lengths of CoOp's split files were taken from published copies; three
were compared with a second copy (Caltech101, DTD, EuroSAT), and where no copy was at hand, none is stated.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from featcache.datasets import lists
from featcache.datasets.about import About, Download
from featcache.datasets.coop import CoopLayout

CALTECH101_NAMES: Final = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
EUROSAT_NAMES: Final = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


def drive(file: str, file_id: str, *, sha256: str = "", size_bytes: int | None = None) -> Download:
    """A small file that CoOp's authors keep on Google Drive, to lie in the data set's own folder."""
    return Download(
        url=f"https://drive.google.com/uc?export=download&id={file_id}",
        file=file,
        checksum=f"sha256:{sha256}" if sha256 else "",
        size_bytes=size_bytes,
    )


STANFORD_CARS: Final = CoopLayout(
    folder="stanford_cars",
    images=".",
    split="StanfordCars",
    lists=lists.stanford_cars,
    about=About(
        title="Stanford Cars",
        licence="not stated",
        link="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        num_classes=196,
        sizes={"train": 6509, "val": 1635, "test": 8041},
        downloads=(
            drive(
                "split_zhou_StanfordCars.json",
                "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
                sha256="40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
                size_bytes=1_855_652,
            ),
        ),
        by_hand="""\
The authors' server no longer has the images. Kaggle has a copy and asks for a login: fetch the archive from
https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset into stanford_cars/, then, in stanford_cars/:
  unzip archive.zip   (the name that the browser gives it)
  mv cars_train outer_train && mv outer_train/cars_train . && rmdir outer_train
  mv cars_test outer_test && mv outer_test/cars_test . && rmdir outer_test
so that cars_train/00001.jpg and cars_test/00001.jpg are there. With the split file no labels are needed.""",
    ),
)

UCF101: Final = CoopLayout(
    folder="ucf101",
    images="UCF-101-midframes",
    split="UCF101",
    lists=lists.ucf101,
    template="a photo of a person doing {}.",
    about=About(
        title="UCF101 (middle frames)",
        licence="not stated",
        link="https://www.crcv.ucf.edu/data/UCF101.php",
        num_classes=101,
        sizes={"train": 7639, "val": 1898, "test": 3783},
        downloads=(
            drive(
                "split_zhou_UCF101.json",
                "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
                sha256="d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
                size_bytes=1_557_485,
            ),
        ),
        by_hand="""\
The frames, which CoOp's authors cut from the videos, are on Google Drive in a file so large that Drive asks for a
confirmation. Open https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view in a browser, confirm, and
put UCF-101-midframes.zip into ucf101/; or, in ucf101/:
  pip install gdown && gdown 10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O
Then, in ucf101/:
  unzip UCF-101-midframes.zip
so that UCF-101-midframes/Apply_Eye_Makeup/ is there.""",
    ),
)

CALTECH101: Final = CoopLayout(
    folder="caltech-101",
    images="101_ObjectCategories",
    split="Caltech101",
    lists=partial(
        lists.class_folders,
        images="101_ObjectCategories",
        ignored=frozenset({"BACKGROUND_Google", "Faces_easy"}),
        renamed=CALTECH101_NAMES,
    ),
    about=About(
        title="Caltech 101",
        licence="CC BY 4.0",
        link="https://data.caltech.edu/records/mzrjq-6wc02",
        num_classes=100,
        sizes={"train": 4128, "val": 1649, "test": 2465},
        downloads=(
            Download(
                url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                file="caltech-101.zip",
                checksum="md5:3138e1922a9193bfa496528edbbc45d0",
                size_bytes=137_414_764,
                unpack="",
                strip="caltech-101/101_ObjectCategories.tar.gz/",  # an archive in the archive
            ),
            drive(
                "split_zhou_Caltech101.json",
                "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
                sha256="52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
                size_bytes=809_184,
            ),
        ),
    ),
)

OXFORD_FLOWERS: Final = CoopLayout(
    folder="oxford_flowers",
    images="jpg",
    split="OxfordFlowers",
    lists=lists.oxford_flowers,
    template="a photo of a {}, a type of flower.",
    about=About(
        title="Oxford 102 Flowers",
        licence="not stated",
        link="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        num_classes=102,
        sizes={"train": 4093, "val": 1633, "test": 2463},
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
                file="102flowers.tgz",
                checksum="md5:52808999861908f626f3c1f4e79d11fa",
                size_bytes=344_862_509,
                unpack="",
            ),
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",
                file="imagelabels.mat",
                checksum="md5:e0620be6f572b9609742df49c70aed4d",
                size_bytes=502,
            ),
            drive(
                "cat_to_name.json",
                "1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0",
                sha256="0469f1ad7fe0072d98155c49aa58649d998edbbe3326229003aa5f7228525236",
                size_bytes=2_212,
            ),
            drive(
                "split_zhou_OxfordFlowers.json",
                "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
                sha256="2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
                size_bytes=771_139,
            ),
        ),
    ),
)

SUN397: Final = CoopLayout(
    folder="sun397",
    images="SUN397",
    split="SUN397",
    lists=lists.sun397,
    about=About(
        title="SUN397",
        licence="not stated",
        link="https://vision.princeton.edu/projects/2010/SUN/",
        num_classes=397,
        sizes={"train": 15880, "val": 3970, "test": 19850},
        downloads=(drive("split_zhou_SUN397.json", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),),
        by_hand="""\
The authors' server answers "not found" since 2025. Get SUN397.tar.gz (39,077,296,924 bytes, md5
8ca2778205c41d23104230ba66911c7a) from a copy, for one https://opendatalab.com/OpenDataLab/SUN397, which asks for a
login, put it into sun397/, then, in sun397/:
  tar -xzf SUN397.tar.gz
so that SUN397/a/abbey/ is there. With the split file the authors' Partitions.zip is not needed.""",
    ),
)

DTD: Final = CoopLayout(
    folder="dtd",
    images="images",
    split="DescribableTextures",
    lists=partial(lists.class_folders, images="images"),
    template="{} texture.",
    about=About(
        title="Describable Textures (DTD)",
        licence="for research purposes",
        link="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        num_classes=47,
        sizes={"train": 2820, "val": 1128, "test": 1692},
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                file="dtd-r1.0.1.tar.gz",
                checksum="md5:fff73e5086ae6bdbea199a49dfb8a4c1",
                size_bytes=625_239_812,
                unpack="",
                strip="dtd/",
            ),
            drive(
                "split_zhou_DescribableTextures.json",
                "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
                sha256="f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
                size_bytes=563_702,
            ),
        ),
    ),
)

EUROSAT: Final = CoopLayout(
    folder="eurosat",
    images="2750",
    split="EuroSAT",
    lists=partial(lists.class_folders, images="2750", renamed=EUROSAT_NAMES),
    template="a centered satellite photo of {}.",
    about=About(
        title="EuroSAT (RGB)",
        licence="MIT",
        link="https://github.com/phelber/EuroSAT",
        num_classes=10,
        sizes={"train": 13500, "val": 5400, "test": 8100},
        downloads=(
            Download(
                url="https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                file="EuroSAT.zip",
                checksum="md5:c8fa014336c82ac7804f0398fcb19387",
                size_bytes=94_280_567,
                unpack="",
            ),
            drive(
                "split_zhou_EuroSAT.json",
                "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
                sha256="541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
                size_bytes=3_006_492,
            ),
        ),
    ),
)

FGVC_AIRCRAFT: Final = CoopLayout(
    folder="fgvc_aircraft",
    images="images",
    split=None,
    lists=lists.fgvc_aircraft,
    template="a photo of a {}, a type of aircraft.",
    about=About(
        title="FGVC Aircraft (variants)",
        licence="for non-commercial research",
        link="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        num_classes=100,
        sizes={"train": 3334, "val": 3333, "test": 3333},
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                file="fgvc-aircraft-2013b.tar.gz",
                checksum="md5:d4acdd33327262359767eeaa97a4f732",
                unpack="",
                strip="fgvc-aircraft-2013b/data/",
            ),
        ),
    ),
)

OXFORD_PETS: Final = CoopLayout(
    folder="oxford_pets",
    images="images",
    split="OxfordPets",
    lists=lists.oxford_pets,
    template="a photo of a {}, a type of pet.",
    about=About(
        title="Oxford-IIIT Pets",
        licence="CC BY-SA 4.0",
        link="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        num_classes=37,
        sizes={"train": 2944, "val": 736, "test": 3669},
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
                file="images.tar.gz",
                checksum="md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
                size_bytes=791_918_971,
                unpack="",
            ),
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
                file="annotations.tar.gz",
                checksum="md5:95a8c909bbe2e81eed6a22bccdf3f68f",
                size_bytes=19_173_078,
                unpack="",
            ),
            drive(
                "split_zhou_OxfordPets.json",
                "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
                sha256="d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
                size_bytes=724_217,
            ),
        ),
    ),
)

FOOD101: Final = CoopLayout(
    folder="food-101",
    images="images",
    split="Food101",
    lists=partial(lists.class_folders, images="images"),
    template="a photo of {}, a type of food.",
    about=About(
        title="Food-101",
        licence="not stated; the pictures remain their owners'",
        link="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        num_classes=101,
        sizes={"train": 50500, "val": 20200, "test": 30300},
        downloads=(
            Download(
                url="https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                file="food-101.tar.gz",
                checksum="md5:85eeb15f3717b99a5da872d97d918f87",
                size_bytes=4_996_278_331,
                unpack="",
                strip="food-101/",
            ),
            drive("split_zhou_Food101.json", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
        ),
    ),
)
