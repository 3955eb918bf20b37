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


def test_frames_and_waves_are_drawn_as_they_are():
    frames = np.random.default_rng(0).integers(0, 256, (3, 100, 120, 3), dtype=np.uint8)
    wave = np.zeros(3 * 16000, np.float32)
    wave[16000 + 320 * 7 + 5] = -0.5  # of the eighth fiftieth of the second second
    (page,) = draw([CaptionedClip("clip", {"video": frames, "audio": wave}, {"written": "a click"})], "Captions")
    film, outline = page.axes
    shown = film.images[0].get_array()
    assert shown.shape == (50, 3 * 61, 3)  # every second pixel, a white gap after each frame
    np.testing.assert_array_equal(shown[:, 61:121], frames[1, ::2, ::2])
    assert (shown[:, 60] == 255).all()
    heights, edges, _ = outline.patches[0].get_data()
    assert np.flatnonzero(heights).tolist() == [57] and heights[57] == 0.5
    assert edges[57] == 1.14 and film.get_xlim() == outline.get_xlim() == (0, 3)
