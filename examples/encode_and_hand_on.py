"""A trained model on files of one's own: their codes, and a folder that somebody else can load.

    python examples/encode_and_hand_on.py checkpoint/mine OUT a.mp4 b.wav

OUT becomes the exported model: tensors, a description and a model card, without anything that runs when it is loaded.
"""

import sys

import cmg
from cmg.export import main as export


def main(checkpoint, out, *files):
    model = cmg.load_pretrained(checkpoint)
    found = model.encode_files(*files)  # modality -> tokens, a row a file
    for m, tokens in found.items():
        for name, codes, valid in zip(files, tokens.codes, tokens.valid):
            print(f"{name}, {m}: {codes[valid].tolist()}")

    export([str(checkpoint), str(out)])
    theirs = cmg.load_pretrained(out).encode_files(*files)
    same = all((theirs[m].codes == tokens.codes).all().item() for m, tokens in found.items())
    print(f"the exported model gives the same codes: {same}")
    return same


if __name__ == "__main__":
    main(*sys.argv[1:])
