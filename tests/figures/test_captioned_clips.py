"""Pictures of captioned clips: what changes is shown, what stays is dark; every word of both sentences is there."""

import numpy as np

from cmg.figures.captions import CaptionedClip, change, draw
from cmg.figures.style import HEIGHT


def test_what_stays_is_dark():
    scene = np.random.default_rng(0).standard_normal((1, 3, 3, 4))
    grid = np.repeat(scene, 6, 0)
    grid[4, 1, 2] += [1, 2, 3, 6]  # one cell of one second
    shown = change(grid)
    assert shown.shape == (6, 3, 3) and np.flatnonzero(shown).tolist() == [4 * 9 + 1 * 3 + 2]
    np.testing.assert_allclose(shown[4, 1, 2], 3, rtol=1e-5)
    np.testing.assert_allclose(change(np.array([[1.0, 5], [1, 5], [4, 5]])), [0, 0, 1.5])


def test_pages_hold_all_clips_and_all_words():
    said = "a dog barks " * 30
    clips = [CaptionedClip(f"clip {n}", {"video": np.ones((5, 2, 2, 3)), "audio": np.ones((5, 4))},
                           {"reference": f"it rains {n}", "written": said}) for n in range(9)]
    pages = draw(clips, "Captions")
    assert len(pages) > 1 and all(page.get_size_inches()[1] < HEIGHT + 1 for page in pages)
    axes = [one for page in pages for one in page.axes]
    assert [one.get_title(loc="left") for one in axes[::2]] == [clip.name for clip in clips]
    for n, one in enumerate(axes[1::2]):
        words = " ".join(one.get_xlabel().split())
        assert f"reference: it rains {n}" in words and f"written: {said.strip()}" in words
    assert all(one.images[0].get_array().shape == (2, 15) for one in axes[::2])  # five frames, a gap after each
