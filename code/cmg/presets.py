"""Presets: named sets of defaults for `cmg.pretrain`. A flag given by the user always wins.

paper     the paper's equations. Where the paper is silent (N_re, initialisation, K) the choice is ours, see README.
official  the arithmetic of the released code, defects that shape its results included; pinned by the parity tests.
small     the paper's equations at a size that pretrains in minutes on two CPU cores.
"""

PAPER = {
    "equations": "paper",
    "dim": 256,
    "layers": 2,
    "input_dropout": 0.0,
    "specific_dim": 0,
    "specific_steps": 0,
    "codes": 400,
    "decay": 0.99,
    "codebook_init": "kmeans",
    "mm_ema": "attention",
    "reset": "both",
    "reset_after": 100,
    "w_rec": 1.0,
    "w_commit": 1.0,
    "w_club": 1.0,
    "w_cpc": 1.0,
    "w_cmcm": 1.0,
    "w_align": 0.0,
    "club_steps": 5,
    "club_lr": 1e-3,
    "cpc_steps": 1,
    "cpc_temperature": None,
    "align_temperature": 0.1,
    "optimizer": "adam",
    "lr": 4e-4,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "clip_grad": 0.5,
    "batch_size": 80,
    "epochs": 6,
}

PRESETS = {
    "paper": PAPER,
    "official": {
        **PAPER,
        "equations": "released",
        "codebook_init": "uniform",
        "mm_ema": "aligned",
        "reset": "any",
        "reset_after": 300,
        "w_cmcm": 0.5,
    },
    "small": {
        **PAPER,
        "dim": 128,
        "layers": 1,
        "specific_dim": 64,
        "codes": 128,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "epochs": 20,
    },
}
