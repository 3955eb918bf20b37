"""Clips composed of public recordings and pictures: fetched from their homes, drawn from a seed, rendered as media.

    python -m cmg.data.compose digits --out FOLDER     spoken digits (FSDD) and handwritten ones (MNIST)
    python -m cmg.data.compose nature --out FOLDER     sounds of the world (ESC-10) and photos (CIFAR-10)
    python FOLDER/render_media.py OUT                  its clips as .mp4, .wav and .png, with annotations

A folder of clips holds `meta.json` (classes, sample rate, names of the two files of material), the material as .npz,
`compositions.jsonl` (a row a clip: which recording and which image is there from which second on), `ann/` (the
annotation files of AVE, AVVP and S4, and captions) and `credits.csv`. Of a seed and the same material it is the same
to the byte. Recordings and images belong to one split each, so that no clip of one split holds what one of another
holds.

download    a file from the network: continued where it broke off, checked before it appears
sources     the homes of the four sets, their sha256, and copies at hand
clips       rows of all kinds (pretrain, ave, avvp, s4) from any material
digits, nature    the two materials: what is played and shown in an event, what a caption says
folder      a folder of clips, written whole or not at all
render      rows as sound and frames, and as media files
"""
