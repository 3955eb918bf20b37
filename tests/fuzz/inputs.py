"""Small good inputs of every kind, each made in a folder of its own when the first command asks for it."""

import json
import pickle
import wave
import zipfile

import av
import h5py
import numpy as np

from cmg.data.features import FeatureWriter
from cmg.downstream import avs
from cmg.extract.hashed import HashedWords
from cmg.extract.logmel import LogMel
from cmg.pretrain import main as pretrain
from support import untrained, write_clips, write_s4
from support_captions import ALIGNED, TINY, flags, write_captioned

AVS = ["--preset", "small", "--size", "32", "--channels", "8", "--fusion", "3", "--batch-size", "8", "--device", "cpu"]


def plain(folder):
    """Clips, an untrained model, lists of AVE and AVVP, sounds, captions, a table file, flags as JSON."""
    write_clips(folder / "clips.h5", 20)
    untrained(folder / "model.pt", {"video": (6, 5, 5, 8), "audio": (6, 12), "text": (6, 10)})
    for name in ("AVE", "AVVP", "sound", "npy", "zip"):
        (folder / name).mkdir()
    rows = [f"{'ab'[i % 2]}&clip{i}&good&1&4" for i in range(20)]
    (folder / "AVE" / "Annotations.txt").write_text("\n".join(rows) + "\n")
    for split, part in (("train", rows[:10]), ("val", rows[10:14]), ("test", rows[14:])):
        (folder / "AVE" / f"{split}Set.txt").write_text("\n".join(part) + "\n")
    for split, part in (("train", range(6)), ("val_pd", range(6, 12)), ("test_pd", range(12, 20))):
        lines = ["filename\tevent_labels", *(f"clip{i}\t{'ab'[i % 2]}" for i in part)]
        (folder / "AVVP" / f"AVVP_{split}.csv").write_text("\n".join(lines) + "\n")
    for kind in ("audio", "visual"):
        lines = ["filename\tonset\toffset\tevent_labels", *(f"clip{i}\t1\t4\t{'ab'[i % 2]}" for i in range(6, 20))]
        (folder / "AVVP" / f"AVVP_eval_{kind}.csv").write_text("\n".join(lines) + "\n")
    for i in range(3):
        write_sound(folder / "sound" / f"s{i}.wav")
        x = np.ones((6, 12), np.float32)
        np.save(folder / "npy" / f"s{i}.npy", x)
        with zipfile.ZipFile(folder / "zip" / f"s{i}.zip", "w") as archive:
            archive.writestr(f"s{i}.pkl", pickle.dumps(x))
    (folder / "captions.csv").write_text("id,caption\ns0,a dog\ns1,a cat\n")
    (folder / "classes.csv").write_text("ave,avvp\na,a\nb,b\n")
    (folder / "groups.csv").write_text("id,group\n" + "".join(f"clip{i},g{i % 5}\n" for i in range(20)))
    (folder / "table.toml").write_text('[evaluations.ave]\ntask = "ave"\nflags = "--data {gone}"\n[[rows]]\n'
                                       'name = "full"\nflags = "--preset small"\n')
    (folder / "args.json").write_text(json.dumps({"flags": {"preset": "small", "dim": 16, "codes": 24, "lr": 1e-3,
                                                            "modalities": ["audio", "text"], "seed": 3}}))


def write_sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
        file.writeframes(np.arange(32000, dtype="<i2").tobytes())


def films(folder):
    """Two seconds of MPEG-4 pictures and AAC sound."""
    for name in ("f0", "f1"):
        with av.open(str(folder / f"{name}.mp4"), "w") as box:
            film, track = box.add_stream("mpeg4", rate=4), box.add_stream("aac", rate=16000, layout="mono")
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
            for k in range(8):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * k, np.uint8), format="rgb24")
                frame.pts = k
                box.mux(film.encode(frame))
            box.mux(film.encode())
            block = av.AudioFrame.from_ndarray(np.ones((1, 32000), np.float32) / 9, format="fltp", layout="mono")
            block.sample_rate, block.pts = 16000, 0
            box.mux(track.encode(block) + track.encode())


def captioner(folder):
    """A run that tells clips in sentences, clips that it does not know, and other references."""
    trained = write_captioned(folder / "train.h5", n=8)
    pretrain(["--data", trained, "--method", "uniq4cap", "--encoders", "none", "--out", str(folder / "run"), "--device",
              "cpu", "--batch-size", "8", "--epochs", "1", *flags({**ALIGNED, **TINY})])
    write_captioned(folder / "clips.h5", n=4, prefix="test")
    (folder / "captions.csv").write_text("id,caption\n" + "".join(f"test{k},a caption {k}\n" for k in range(4)))


def mixer(folder):
    """A run that separates what it mixed, and clips that it does not know."""
    shapes, rng = {"video": (3, 16, 16, 3), "audio": (3, 16, 16)}, np.random.default_rng(0)
    for name in ("train", "clips"):
        with FeatureWriter(folder / f"{name}.h5", shapes, {}, {"video": "uint8", "audio": "float32"}) as writer:
            writer.append([f"{name}{i}" for i in range(8)], {"video": rng.integers(0, 256, (8, *shapes["video"])),
                                                             "audio": rng.normal(-40, 10, (8, *shapes["audio"]))})
    pretrain(["--data", str(folder / "train.h5"), "--out", str(folder / "run"), "--method", "cmmixer", "--side", "16",
              "--patch", "4", "--positions", "2", "--dim", "16", "--layers", "1", "--heads", "2", "--decoder-dim", "16",
              "--decoder-layers", "1", "--decoder-heads", "2", "--batch-size", "8", "--device", "cpu", "--epochs", "1"])


def segmented(folder):
    """AVSBench's folder in small, a checkpoint of its sounds and words, and a network that was trained on it."""
    write_s4(folder / "s4")
    untrained(folder / "model.pt", {"audio": (10, *LogMel.shape), "text": (10, *HashedWords.shape)}, codes=8)
    avs.main(["--stage", "train", "--annotations", str(folder / "s4"), "--checkpoint", str(folder / "model.pt"),
              "--epochs", "1", "--out", str(folder / "run"), *AVS])


def pairs(folder):
    """The lists of UCF101 and VGGSound in small."""
    names = {"video": ["Cello", "Piano"], "audio": ["playing cello", "playing piano"]}
    (folder / "UCF101sameVGGSound.txt").write_text("\n".join(names["video"]) + "\n")
    (folder / "VGGSoundsameUCF101.txt").write_text("\n".join(names["audio"]) + "\n")
    splits = ["train"] * 10 + ["val"] * 4 + ["test"] * 6
    for file, m in (("ucf2vggsound", "video"), ("vggsound2ucf", "audio")):
        rows = [f"{names[m][i % 2]},clip{i},{split}\n" for i, split in enumerate(splits)]
        (folder / f"{file}.csv").write_text("category,video_id,split\n" + "".join(rows))


def release(folder):
    """The AVE release in small."""
    rows = [("Bark", "a", 0, 10), ("Cat", "b", 2, 5), ("Cat", "c", 0, 1)]
    lines = [f"{category}&{name}&good&{on}&{off}" for category, name, on, off in rows]
    (folder / "Annotations.txt").write_text("\n".join(["Category&VideoID&Quality&StartTime&EndTime", *lines]) + "\n")
    for name, shape in (("visual_feature", (3, 10, 2, 2, 4)), ("audio_feature", (3, 10, 3)), ("labels", (3, 10, 3))):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["avadataset"] = np.ones(shape, np.float32)


def howto(folder):
    """Two videos as HowTo100M has them, what is said in them, and word vectors."""
    for k, name in enumerate(("aaaaaaaaaaa", "bbbbbbbbbbb")):
        for ending, key, shape in (("_2d", "features", (20, 4)), ("_3d", "features", (30, 5)),
                                   ("_spec", "arr_0", (40, 1998))):
            np.savez(folder / f"{name}{ending}.npz", **{key: np.full(shape, k + 1, np.float32)})
    (folder / "videos.csv").write_text("path\naaaaaaaaaaa\nbbbbbbbbbbb\n")
    said = {"start": [2.0, 9.0], "end": [6.0, 14.0], "text": ["word1 word2", "word3"]}
    (folder / "caption.pkl").write_bytes(pickle.dumps({"aaaaaaaaaaa": said, "bbbbbbbbbbb": said}))
    words(folder / "w.bin")


def words(path):
    rows = b"".join(f"word{n} ".encode() + np.array([n, 1, 0], "<f4").tobytes() for n in range(9))
    path.write_bytes(b"9 3\n" + rows)


def lists(folder):
    """A pickled list of clips."""
    entries = [{"id": f"v{k}", "2d": np.ones((4, 4), np.float32), "3d": np.ones((6, 5), np.float32),
                "audio": np.ones((40, 400), np.float32), "caption": ["word1 word2", "word3"]} for k in range(3)]
    (folder / "list.pkl").write_bytes(pickle.dumps(entries))
    words(folder / "w.bin")


def tabled(folder):
    """A table of two rows that are done."""
    (folder / "t.toml").write_text('[evaluations.ave]\ntask = "ave"\n[[rows]]\nname = "a"\n[[rows]]\nname = "b"\n')
    for name in "ab":
        cell = folder / "out" / f"{name}-seed0"
        (cell / "ave").mkdir(parents=True)
        (cell / "cell.json").write_text(json.dumps({"name": name, "seed": 0, "flags": [], "evaluations": {
            "ave": {"arguments": [], "minutes": 0.5}}}))
        (cell / "args.json").write_text(json.dumps({"commit": "c0", "numerics": 5, "flags": {"batch_size": 10}}))
        (cell / "metrics.csv").write_text("step,train/clips_per_s\n0,1\n20,10\n")
        row = {"task": "ave", "metric": "accuracy", "source": "video", "target": "audio", "protocol": "strict",
               "value": 50.0, "source_value": 60.0, "target_value": None, "chance": 10.0, "n_test": 4, "commit": "c0"}
        (cell / "ave" / "results.json").write_text(json.dumps([row]))
        scores = {"names": np.array(list("wxyz")), "clusters": np.array(list("wxyz")), "scores": np.ones(4)}
        np.savez(cell / "ave" / "ave_strict_clips.npz",
                 **{f"video/audio/accuracy/{key}": x for key, x in scores.items()})


MAKERS = {make.__name__: make for make in (plain, films, captioner, mixer, segmented, pairs, release, howto, lists,
                                           tabled)}


def made(base, name):
    """The folder of a kind of inputs, made where it is not there yet."""
    folder = base / name
    if not folder.is_dir():
        folder.mkdir(parents=True)
        MAKERS[name](folder)
    return folder
