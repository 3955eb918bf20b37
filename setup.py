"""The package `cmg` lives in `code/`, which is a plain folder: its name belongs to a module of the standard library."""

from pathlib import Path

from setuptools import find_packages, setup

# The least that the code was tested with. What reads feature files needs torch alone, of any later release; what reads
# media holds torch at 2.11, for torchaudio 2.11 is the last release and loads beside no other. requirements.txt has the
# tested set, which the scripts install where nothing is there yet; a test compares the two.
# scripts/env.sh reads these two names without running this file, so they stay plain literals; only the forms
# `name==1.2.*` and `name>=1.2` are used.
REQUIRED = [
    "torch>=2.11",
    "numpy>=1.26",
    "scipy>=1.11",
    "h5py>=3.10",
    "scikit-learn>=1.4",
    "safetensors>=0.4",
    "tqdm>=4.66",
    "tensorboard>=2.16",
    "matplotlib>=3.8",
]
EXTRAS = {
    "extract": [
        "torch==2.11.*", "torchvision==0.26.*", "torchaudio==2.11.*", "av>=14.0", "transformers>=5.0", "pillow>=10.0",
    ],
    "vit": ["timm>=1.0"],
    "wandb": ["wandb>=0.17"],
    "avs": [
        "torch==2.11.*", "torchvision==0.26.*", "torchaudio==2.11.*", "timm>=1.0", "av>=14.0", "pillow>=10.0",
    ],
    "hub": ["huggingface-hub>=0.30"],
    "dev": [
        "torch==2.11.*", "torchvision==0.26.*", "torchaudio==2.11.*", "pytest>=8.0", "ruff>=0.9",
        "vector-quantize-pytorch>=1.20", "av>=14.0", "pillow>=10.0", "timm>=1.0", "transformers>=5.0",
        "huggingface-hub>=0.30",
    ],
    "browser": ["selenium>=4.20"],  # tests of the page of codes, beside a chromium of the system
}

setup(
    name="cmg-unicode",
    version="0.1.0",
    description="Cross-modal generalization: unified discrete representations of video, audio and text",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="CMG developers",
    license="MIT",
    keywords="multimodal, representation learning, vector quantisation, audio-visual, retrieval",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    package_dir={"": "code"},
    packages=find_packages("code"),
    package_data={
        "cmg": ["py.typed"], "cmg.data": ["*.csv"], "cmg.explore": ["*.html", "*.css", "*.js"],
        "cmg.tables": ["files/*.toml", "files/*.csv"],
    },
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["cmg = cmg.__main__:main"]},
)
