"""UniQ4Cap (Zhang et al.): one stage aligns sight, sound and captions, the next learns to write captions of them.

    python -m cmg.pretrain --data clips.h5 --method prealign --out checkpoint/aligned
    python -m cmg.pretrain --data clips.h5 --method uniq4cap --init-from checkpoint/aligned --out checkpoint/captions

The code of the first stage was never released, and that of the second trains one loss of the paper's three. Choices of
this project, for which no source exists, stand in the modules.
"""
