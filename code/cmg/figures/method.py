"""What Uni-Code is, in one picture: pretraining above, transfer below.  `python -m cmg.figures.method`

    python -m cmg.figures.method --out figs/method.svg
"""

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from cmg.cli import Parser, command
from cmg.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, WIDTH, save, styled
from cmg.modalities import TABLE

COLOURS = dict(zip(("video", "audio", "text"), (BLUE, ORANGE, GREEN)))
FILES = {"video": "frames of .mp4", "audio": "sound of .mp4", "text": "words of .csv"}
ROWS = dict(zip(COLOURS, (2.35, 1.45, 0.55)))  # heights of the modalities
LOSSES = (
    (2.55, "Cross-CPC", "z of one modality predicts\nthe other's next second"),
    (1.80, "MM-EMA, commitment", "codes follow the z of\nall modalities, and z its code"),
    (1.05, "code matching", "a clip's modalities\nchoose alike"),
    (0.30, "reconstruction", "z's code and z̄ together\ngive the input back"),
)


@styled
def draw() -> list[Figure]:
    """One page: the parts that are trained, and what is frozen and asked afterwards."""
    figure = Figure((WIDTH, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3.2, 1.5])
    above.set_title("1  Pretraining on clips without labels", loc="left", fontweight="bold")
    for m, y in ROWS.items():
        _box(above, 0.0, y, 1.15, FILES[m], f"features [T, …]\n{m}", COLOURS[m])
        _box(above, 1.75, y, 1.15, "Φ, semantic", "z: what modalities\nhave in common", COLOURS[m])
        _box(above, 1.75, y - 0.37, 1.15, "Ψ, specific", "", COLOURS[m], height=0.22, colour="white")
        above.text(2.97, y - 0.37, "z̄", ha="left", va="center")
        for end in (0.0, -0.37):
            _arrow(above, (1.16, y), (1.74, y + end))
        _arrow(above, (2.91, y), (3.52, 1.45 + 0.28 * (y - 1.45)))
    above.text(1.45, 1.73, "vCLUB keeps\nz and z̄ apart", ha="center", va="center", fontsize=6, color=INK)
    _codebook(above, 3.55, 1.45)
    for y, name, text in LOSSES:
        _box(above, 5.35, y, 1.85, name, text, GREY, height=0.6)
        _arrow(above, (4.85, 1.45 + 0.35 * (y - 1.45)), (5.34, y))
    above.text(6.27, 3.0, "what a step teaches", ha="center", va="center", fontsize=7)
    above.set(xlim=(-0.03, WIDTH + 0.03), ylim=(-0.1, 3.1))

    below.set_title("2  Transfer: Φ and the codebook are frozen", loc="left", fontweight="bold")
    for y, steps, m in ((0.95, ("train a head", "on the codes of video, with labels"), "video"),
                        (0.25, ("test the same head", "on the codes of audio, never seen"), "audio")):
        _box(below, 0.0, y, 1.15, FILES[m], "", COLOURS[m], height=0.42)
        _box(below, 1.75, y, 1.15, "Φ", "", COLOURS[m], height=0.42)
        _codes(below, 3.3, y, m)
        _box(below, 5.35, y, 1.85, *steps, GREY, height=0.5)
        for start, end in ((1.16, 1.74), (2.91, 3.28), (5.0, 5.34)):
            _arrow(below, (start, y), (end, y))
    _arrow(below, (6.27, 0.69), (6.27, 0.51))
    below.text(4.15, 0.6, "one vocabulary for both", ha="center", va="center", fontsize=6)
    below.set(xlim=(-0.03, WIDTH + 0.03), ylim=(-0.05, 1.3))
    for axes in (above, below):
        axes.set_axis_off()
    return [figure]


def _box(axes, x, y, width, name, text, edge, height=0.44, colour=PALE):
    axes.add_patch(FancyBboxPatch((x, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.05",
                                  facecolor=colour, edgecolor=edge, linewidth=1.2))
    lines = text.count("\n") + 1 if text else 0
    axes.text(x + width / 2, y + 0.065 * lines, name, ha="center", va="center", fontweight="bold", fontsize=7)
    if text:
        axes.text(x + width / 2, y - 0.085, text, ha="center", va="center", fontsize=5.5, linespacing=1.05)


def _arrow(axes, tail, head):
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "->", "color": INK, "lw": 0.8, "shrinkA": 0, "shrinkB": 0})


def _codebook(axes, x, y, side=0.26):
    """A field of codes, most of them used by several modalities: a stripe for each."""
    users = ("va", "vat", "v", "at", "vat", "va", "vt", "vat", "a", "vat", "va", "vat", "at", "vat", "t", "va", "vat",
             "vt", "vat", "va")
    letters = {row.letter: m for m, row in TABLE.items()}
    axes.text(x + 2.5 * side, y + 0.78, "shared codebook", ha="center", va="center", fontweight="bold", fontsize=7)
    for number, own in enumerate(users):
        row, column = divmod(number, 5)
        left, low = x + column * side, y + 0.62 - (row + 1) * side
        for place, letter in enumerate(own):
            width = 0.9 * side / len(own)
            colour = COLOURS[letters[letter]]
            axes.add_patch(Rectangle((left + place * width, low), width, 0.9 * side, facecolor=colour))
    axes.text(x + 2.5 * side, y - 0.62, "every second of every modality\nis one of n codes", ha="center", va="center",
              fontsize=5.5)


def _codes(axes, x, y, modality, width=0.34):
    """A clip as a line of code numbers."""
    for second, code in enumerate((7, 7, 41, 41, 3) if modality == "video" else (7, 7, 41, 3, 3)):
        axes.add_patch(Rectangle((x + second * width, y - 0.14), 0.92 * width, 0.28, facecolor="white",
                                 edgecolor=COLOURS[modality], linewidth=1.2))
        axes.text(x + (second + 0.46) * width, y, str(code), ha="center", va="center", fontsize=6.5)


@command
def main(argv=None):
    p = Parser(prog="cmg.figures.method", description=__doc__.split("\n")[0])
    p.add_argument("--out", default="figs/method.svg", help="the picture; a PDF goes beside it")
    print(save(draw(), p.parse_args(argv).out))


if __name__ == "__main__":
    main()
