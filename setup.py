"""The package `cmg` lives in `code/`, which is a plain folder: its name belongs to a module of the standard library."""

from setuptools import find_packages, setup

# scripts/env.sh reads these two names without running this file, so they stay plain literals; only the forms
# `name==1.2.*` and `name>=1.2` are used. requirements.txt lists REQUIRED again; a test compares the two.
REQUIRED = [
    "torch==2.11.*",
    "torchvision==0.26.*",
    "torchaudio==2.11.*",
    "numpy>=1.26",
    "scipy>=1.11",
    "h5py>=3.10",
    "scikit-learn>=1.4",
    "tqdm>=4.66",
    "tensorboard>=2.16",
    "matplotlib>=3.8",
]
EXTRAS = {
    "extract": ["av>=14.0", "transformers>=5.0", "pillow>=10.0"],
    "vit": ["timm>=1.0"],
    "wandb": ["wandb>=0.17"],
    "avs": ["timm>=1.0", "av>=14.0", "pillow>=10.0"],
    "dev": [
        "pytest>=8.0", "ruff>=0.9", "vector-quantize-pytorch>=1.20", "av>=14.0", "pillow>=10.0",
        "timm>=1.0", "transformers>=5.0",
    ],
    "browser": ["selenium>=4.20"],  # tests of the page of codes, beside a chromium of the system
}

setup(
    name="cmg-unicode",
    version="0.1.0",
    description="Cross-modal generalization: unified discrete representations of video, audio and text",
    license="MIT",
    package_dir={"": "code"},
    packages=find_packages("code"),
    package_data={"cmg.data": ["*.csv"], "cmg.explore": ["*.html", "*.css", "*.js"]},
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require=EXTRAS,
)
