"""Public sets in their true formats but tiny, a server on the loopback interface that has them, clips made of them."""

import contextlib
import gzip
import hashlib
import io
import pickle
import re
import tarfile
import threading
import wave
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
from torchvision.datasets import CIFAR10

from cmg.data.compose import digits, nature, sources
from cmg.data.compose.__main__ import main

OGG_RATE = 8000  # Hz, where ESC-10 has 44100
SPEAKERS = ("george", "jackson", "theo", "yweweler")
DIGIT_SIZES = {"ave": {"train": 20, "val": 10, "test": 10}, "avvp": {"train": 10, "val": 10, "test": 10},
               "s4": {"train": 10, "val": 10, "test": 10}, "pretrain": {"train": 30}}
NATURE_SIZES = {"ave": {"train": 20, "val": 10, "test": 10}, "avvp": {"train": 10, "val": 10, "test": 10},
                "pretrain": {"train": 24}}


@contextlib.contextmanager
def serving(files, ranges=True, cut=None):
    """Serve name -> bytes. Yields the address and the list of what was asked for: (name, Range header or None).

    ranges : whether the server knows Range
    cut : after how many bytes the first connection for each file is closed
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name, wanted = self.path.lstrip("/"), self.headers["Range"]
            first = name not in [one for one, _ in asked]
            asked.append((name, wanted))
            if name not in files:
                return self.send_error(404)
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and ranges else 0
            if start >= len(files[name]):
                return self.send_error(416)
            body = files[name][start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut] if cut and first else body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def digest(pieces):
    return hashlib.sha256(b"".join(pieces)).hexdigest()


def zipped(files):
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return box.getvalue()


def tiny_fsdd():
    """File name -> bytes: 15 takes of ten digits by four speakers, a twentieth of a second of noise each."""
    rng, files = np.random.default_rng(0), {}
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in range(15):
                files[f"{digit}_{speaker}_{take}.wav"] = wav(rng.integers(-20000, 20000, 400))
    return files


def wav(samples):
    box = io.BytesIO()
    with wave.open(box, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return box.getvalue()


def tiny_mnist():
    """The two IDX files: 30 images of each digit."""
    rng, labels = np.random.default_rng(1), np.arange(300, dtype=np.uint8) % 10
    images = rng.integers(0, 256, (300, 28, 28)).astype(np.uint8)
    head = np.array([2051, 300, 28, 28], ">i4").tobytes(), np.array([2049, 300], ">i4").tobytes()
    return head[0] + images.tobytes(), head[1] + labels.tobytes()


def tiny_esc10():
    """Path -> bytes: two recordings of each class and fold, one of them short; README.md with titles and authors."""
    rng, files, lines = np.random.default_rng(2), {}, []
    for number, (folder, *_) in enumerate(nature.PAIRS):
        for fold in range(1, 6):
            for take in "AB":
                name = f"{fold}-{1000 + number}-{take}.ogg"
                sound = np.zeros(OGG_RATE * 5, np.float32)
                begin, end = (0, len(sound)) if take == "A" else (OGG_RATE, OGG_RATE * 3 // 2)
                sound[begin:end] = rng.uniform(-0.5, 0.5, end - begin)
                files[f"{folder}/{name}"] = ogg(sound)
                lines.append(f"- **[{name}](https://x/{name})**:   clip derived from "
                             f"[My_Sound {number}.wav](https://y/{name}) by *somebody {fold}* ([CC-BY](https://z))")
    return files | {"README.md": "\n".join(lines).encode()}


def ogg(sound):
    """Without loss, which PyAV can write everywhere; ESC-10's are Vorbis."""
    box = io.BytesIO()
    with av.open(box, "w", format="ogg") as file:
        track = file.add_stream("flac", rate=OGG_RATE, layout="mono")
        track.format = "s16"
        block = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], format="s16", layout="mono")
        block.sample_rate, block.pts = OGG_RATE, 0
        file.mux(track.encode(block))
        file.mux(track.encode())
    return box.getvalue()


def tiny_cifar():
    """Path -> bytes: 60 test photos of each class in the pickles of CIFAR-10."""
    rng, names = np.random.default_rng(3), sorted(pair[2] for pair in nature.PAIRS)
    photos = {"data": rng.integers(0, 256, (600, 3072)).astype(np.uint8), "labels": (np.arange(600) % 10).tolist()}
    few = {"data": photos["data"][:1], "labels": [0]}
    batches = {f"data_batch_{n}": few for n in range(1, 6)}
    batches |= {"test_batch": photos, "batches.meta": {"label_names": names}}
    return {f"cifar-10-batches-py/{name}": pickle.dumps(batch) for name, batch in batches.items()}


def tarred(files):
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return box.getvalue()


def by_name(files):
    return [files[path] for path in sorted(files, key=lambda path: path.rsplit("/", 1)[-1])]


def digit_sources(patch):
    """File name at its home -> bytes; the code then expects these."""
    recordings, (images, labels) = tiny_fsdd(), tiny_mnist()
    served = {digits.FSDD.file: zipped({f"x/recordings/{name}": content for name, content in recordings.items()}),
              sources.MNIST_IMAGES.file: gzip.compress(images), sources.MNIST_LABELS.file: gzip.compress(labels)}
    patch.setattr(digits, "FSDD", digits.FSDD._replace(number=len(recordings), sha256=digest(by_name(recordings))))
    for name, content in (("MNIST_IMAGES", images), ("MNIST_LABELS", labels)):
        source = getattr(sources, name)
        patch.setattr(sources, name, source._replace(
            sha256=digest([content]), file_sha256=digest([served[source.file]])))
    patch.setattr(digits.Digits, "sizes", DIGIT_SIZES)
    return served


def nature_sources(patch):
    """As `digit_sources`."""
    recordings, photos = tiny_esc10(), tiny_cifar()
    served = {nature.ESC10.file: zipped({f"x/{name}": content for name, content in recordings.items()}),
              sources.CIFAR.file: tarred(photos)}
    sounds = {name: content for name, content in recordings.items() if name.endswith(".ogg")}
    patch.setattr(nature, "ESC10", nature.ESC10._replace(number=len(sounds), sha256=digest(by_name(sounds))))
    patch.setattr(sources, "CIFAR", sources.CIFAR._replace(file_sha256=digest([served[sources.CIFAR.file]])))
    sums = {path.split("/")[1]: hashlib.md5(content).hexdigest() for path, content in photos.items()}
    patch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in sums if name.startswith("data_")])
    patch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    patch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    patch.setattr(nature.Nature, "sizes", NATURE_SIZES)
    return served


def compose(name, out, mirror, *flags):
    main([name, "--out", str(out), "--downloads", str(out.parent / "downloads"), "--mirror", mirror, *flags])
