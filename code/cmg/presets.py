"""Presets: named sets of defaults for `cmg.pretrain`. A method takes those that it has a use for, see
`methods.registry.defaults`; a flag given by the user always wins.

paper     the paper's equations. Where the paper is silent (N_re, initialisation, K) the choice is ours, see README.
official  the arithmetic of the released code, defects that shape its results included; pinned by the parity tests.
small     what we recommend for small data: the paper's terms plus an alignment term in the shared space, cosine
          Cross-CPC, words that belong to the clip and not to a second, at a size for two CPU cores.
"""

PAPER = {
    "equations": "paper",
    "dim": 256,
    "layers": 2,
    "transformer": "own",
    "input_dropout": 0.0,
    "specific_dim": 0,
    "specific_steps": 0,
    "codes": 400,
    "decay": 0.99,
    "codebook_init": "kmeans",
    "mm_ema": "attention",
    "commitment": "cross",
    "reset": "both",
    "reset_after": 100,
    "text_alignment": "step",
    "text_padding": "masked",
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
        "text_padding": "read",
        "w_cmcm": 0.5,
    },
    "small": {
        **PAPER,
        "dim": 128,
        "layers": 1,
        "codes": 128,
        "specific_dim": 64,
        "specific_steps": 2,
        "text_alignment": "clip",
        "w_align": 1.0,
        "cpc_temperature": 0.1,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 20,
        "epochs": 20,
    },
}
