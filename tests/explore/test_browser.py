"""The page in a real browser, from disk: it draws, plays, filters, leads on, and nothing of the data becomes HTML.

Needs Debian's `chromium` and `chromium-driver` (or Google's) and selenium, the extra [browser]; skipped without.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

import cmg
from cmg.explore.__main__ import main
from cmg.training import checkpoint
from support import untrained
from support_explore import HOSTILE, caption, write_features, write_table

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(page):
    """Opens an address of the page in a fresh tab; the driver."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: the extra [browser]")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs a chromium and its chromedriver on PATH")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900",
                 "--autoplay-policy=no-user-gesture-required"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(DRIVER, env={**os.environ, "SE_OFFLINE": "true"}))
    driver.set_script_timeout(10)

    def opening(address=""):
        driver.get("about:blank")
        driver.get((page / "index.html").as_uri() + address)
        return driver

    yield opening
    driver.quit()


def texts(driver, selector):
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector)


def ask(driver, query):
    driver.execute_script("""const box = document.getElementById('query'); box.value = arguments[0];
                             box.dispatchEvent(new Event('input', {bubbles: true}))""", query)


def heading(driver):
    """The heading of the view once a link was followed."""
    return driver.execute_async_script(
        "setTimeout(() => arguments[0](document.querySelector('h2').textContent), 200)")


def complaints(driver):
    """What the console has, but for advice on how often a test looks at the canvas."""
    return [entry for entry in driver.get_log("browser") if entry["source"] != "rendering"]


def test_it_opens_from_disk_and_draws_the_map(opened, page):
    driver = opened()
    assert driver.title == f"Codes of {page.parent.name}/best"
    assert texts(driver, "#legend li") == ["video", "audio", "text"]
    assert "9 clips" in texts(driver, "#summary")[0]
    used = driver.execute_script("return CMG.used.length")
    assert len(texts(driver, ".card")) == used
    # at the place of each code the canvas has the colour of a modality that uses it
    wrong = driver.execute_script("""
        const canvas = document.getElementById('canvas'), scale = devicePixelRatio, wrong = [];
        for (const code of CMG.used) {
          const {x, y} = map.place(code);
          const [r, g, b, a] = canvas.getContext('2d').getImageData((x - 2) * scale, (y - 2) * scale, 1, 1).data;
          const hex = '#' + [r, g, b].map((n) => n.toString(16).padStart(2, '0')).join('').toUpperCase();
          if (!a || (a === 255 && !CMG.modalities.some((one) => one.colour === hex))) wrong.push([code, hex, a]);
        }
        return wrong;""")
    assert wrong == [] and complaints(driver) == []


def test_it_asks_for_nothing_but_its_own_files(opened, page):
    driver = opened("#clips")
    asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    addresses = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    own = page.as_uri()
    assert {f"{own}/{name}" for name in ("page.css", "data.js", "page.js")} <= addresses
    assert [one for one in addresses if not one.startswith((own, "data:", "about:"))] == []


def test_a_code_has_pictures_that_show_and_sounds_that_play(opened):
    driver = opened()
    code = driver.execute_script("""return CMG.used.find((code, i) => CMG.modalities[1].typical[i].some((clip, at) =>
        at % 2 === 0 && clip < 6) && CMG.modalities[0].typical[i].some((clip, at) => at % 2 === 0 && clip < 6))""")
    driver.execute_script("location.hash = `code=${arguments[0]}`", code)
    played = driver.execute_async_script("""
        const done = arguments[0], player = document.getElementById('player');
        player.addEventListener('playing', () => done([player.duration, player.paused, player.src]), {once: true});
        player.addEventListener('error', () => done(String(player.error && player.error.message)), {once: true});
        setTimeout(() => document.querySelector('.wave').click(), 50);""")
    assert isinstance(played, list) and 0.9 < played[0] < 1.3 and played[1] is False
    assert texts(driver, "h2") == [f"Code {code}"]
    sizes = driver.execute_async_script("""
        const done = arguments[0], seen = [...document.querySelectorAll('.examples .picture')];
        Promise.all(seen.map((one) => new Promise((told) => {
          const image = new Image();
          image.onload = () => told([image.naturalWidth, one.getBoundingClientRect().width > 40]);
          image.onerror = () => told(null);
          image.src = getComputedStyle(one).backgroundImage.slice(5, -2);
        }))).then(done);""")
    assert sizes and all(size == [4 * 32, True] for size in sizes)
    assert complaints(driver) == []


def test_filters_leave_the_clips_that_are_meant(opened):
    driver = opened("#clips")
    assert texts(driver, "h2") == ["9 clips"]
    ask(driver, "SMALL bell")
    assert texts(driver, ".row b") == [f"clip{n}" for n in range(9) if "small" in caption(n)]
    assert texts(driver, "#matches") == ["3 of 9 clips"]
    ask(driver, "clip4")
    assert texts(driver, ".row b") == ["clip4"]
    codes = driver.execute_script("return model.codesOf(model.modalities[0], 4).filter((code) => code !== null)")
    ask(driver, f"#{codes[0]}")
    assert "clip4" in texts(driver, ".row b")
    assert driver.execute_script("return [...model.match(arguments[0], -1)]", f"#{codes[0]}") == driver.execute_script(
        "return CMG.ids.map((_, clip) => model.modalities.some((one) => model.codesOf(one, clip)"
        ".includes(arguments[0])) ? 1 : 0)", codes[0])
    ask(driver, "")
    label = driver.execute_script("""const box = document.getElementById('label');
        box.value = CMG.labels.indexOf('bell'); box.dispatchEvent(new Event('change')); return box.value""")
    assert texts(driver, ".row b")[:2] == ["clip0", "clip2"] and label != "-1"
    assert texts(driver, "#matches") == ["5 of 9 clips"] and complaints(driver) == []


def test_a_clip_has_a_time_line_and_leads_to_its_codes(opened):
    driver = opened("#clip=clip1")
    rows, same, together = driver.execute_script(
        "const {rows, same, together} = model.agreement(1); return [rows, same, together]")
    shown = driver.execute_script("""return [...document.querySelectorAll('.codes')].map((line) =>
        [...line.children].slice(1).map((one) => [one.textContent, one.className === 'same']))""")
    assert shown == [[["" if code is None else str(code), agrees] for code, agrees in zip(*both)]
                     for both in zip(rows, same)]
    assert together == sum(a == b != None for a, b in zip(*rows))  # noqa: E711
    assert texts(driver, ".ruby a")[0].startswith("a") and len(texts(driver, ".ruby a")) == 5
    driver.execute_script("document.querySelector('.codes a').click()")
    assert heading(driver) == f"Code {rows[0][0]}"


def test_names_and_labels_are_text(opened):
    driver = opened("#clips")
    assert texts(driver, ".row b")[-1] == HOSTILE
    driver.execute_script("[...document.querySelectorAll('.row')].at(-1).click()")
    assert heading(driver) == HOSTILE
    assert caption(8) in texts(driver, "article > blockquote")
    assert driver.execute_script("return typeof hurt") == "undefined"
    foreign = "main img, main b[onclick], main script"
    assert driver.execute_script("return document.querySelectorAll(arguments[0]).length", foreign) == 0


@pytest.mark.parametrize("told", [False, True])
def test_a_page_of_text_alone_says_what_it_knows(opened, tmp_path, told):
    untrained(tmp_path / "best.pt", {"text": (5, 5)}, dim=8, codes=7)
    write_features(tmp_path / "f.h5", ["a", "b", "c"], {"text": (5, 5)})
    write_table(tmp_path / "c.csv", ["id", "caption"], [(name, caption(n)) for n, name in enumerate("abc")])
    main(["--checkpoint", str(tmp_path / "best.pt"), "--data", str(tmp_path / "f.h5"), "--device", "cpu", "--out",
          str(tmp_path / "page"), *(["--captions", str(tmp_path / "c.csv")] if told else [])])
    driver = opened()
    driver.get((tmp_path / "page" / "index.html").as_uri())
    assert texts(driver, "#legend li") == ["text"] and len(texts(driver, ".card")) == driver.execute_script(
        "return CMG.used.length")
    driver.execute_script("location.hash = `code=${CMG.used[0]}`")
    assert heading(driver) == f"Code {driver.execute_script('return CMG.used[0]')}"
    driver.execute_script("location.hash = 'clip=b'")
    assert heading(driver) == "b"
    words = driver.execute_script("return [...document.querySelectorAll('.ruby a')].map((a) => a.firstChild.data)")
    assert words == (["a", "small", "bell", "it", "rings"] if told else [f"word {n}" for n in range(1, 6)])
    driver.execute_script("location.hash = 'clips'")
    assert heading(driver) == "3 clips" and complaints(driver) == []


@pytest.fixture
def large(tmp_path):
    """The folder of a page of 2,000 clips of three modalities and 512 codes, or the one that CMG_PAGE names."""
    if os.environ.get("CMG_PAGE"):
        return Path(os.environ["CMG_PAGE"]).resolve()
    features, shapes = tmp_path / "f.h5", {"video": (10, 2, 2, 6), "audio": (10, 6), "text": (10, 5)}
    untrained(tmp_path / "best.pt", shapes, dim=8, codes=512)
    write_features(features, [f"clip{n}" for n in range(2000)], shapes)
    vectors = cmg.load_pretrained(tmp_path / "best.pt").encode(features)["video"].semantic.flatten(0, 1)
    content = checkpoint.read(tmp_path / "best.pt")
    content["model"]["codebook.embedding"] = vectors[:: len(vectors) // 512][:512].clone()  # so that all are used
    checkpoint.save(tmp_path / "best.pt", content)
    main(["--checkpoint", str(tmp_path / "best.pt"), "--data", str(features), "--device", "cpu", "--out",
          str(tmp_path / "page")])
    return tmp_path / "page"


def test_thousands_of_clips_are_no_burden(opened, large):
    """By the time that the browser's main thread works, not waits: other programs do not count."""
    driver = opened()
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def worked(act, *words):
        now = [driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]]
        act(*words)
        texts(driver, "h2")
        now.append(driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"])
        start, end = ({one["name"]: 1000 * one["value"] for one in found}["TaskDuration"] for found in now)
        return end - start

    spent = {"opening": worked(driver.get, (large / "index.html").as_uri())}
    first = driver.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
    spent |= {f"filter {query!r}": worked(ask, driver, query) for query in ("1", "#40", "")}
    size = (large / "data.js").stat().st_size
    print(f"\ndata.js {size / 1e6:.2f} MB, first paint after {first:.0f} ms; ms of work: "
          + ", ".join(f"{name} {ms:.0f}" for name, ms in spent.items()))
    assert size < 2e6 and spent.pop("opening") < 1500 and max(spent.values()) < 400


def test_the_map_is_walked_by_keys(opened):
    driver = opened()
    found = driver.execute_async_script("""
        const done = arguments[0], canvas = document.getElementById('canvas');
        const press = (key) => canvas.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
        press('ArrowLeft'); press('ArrowUp');
        const told = document.getElementById('said').textContent;
        press('Enter');
        setTimeout(() => done([told, document.querySelector('h2').textContent]), 200);""")
    assert found[0].startswith(found[1] + ", used ")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    driver = opened()
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600})
    for address in ("", "#clips", "#code=0", "#clip=clip1"):
        driver.execute_script("location.hash = arguments[0]", address)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width, address
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
