"""The bench: counted FLOPs and bytes against hand counts, its records, the picture; loading; the check of a card."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmg import gpu_check
from cmg.bench import OperatorCounter, device_name, main
from cmg.bench_captions import main as captions
from cmg.bench_captions import without_keys
from cmg.bench_loading import main as loading
from cmg.bench_loading import read_released, write_released
from cmg.bench_report import comparison, draw
from cmg.data.feature_file import FeatureWriter
from cmg.data.features import FeatureSet
from cmg.data.pickles import array_in_zip
from cmg.figures import roofline
from cmg.models.uniq4cap.generation import Marks, WritingConfig, write
from cmg.models.uniq4cap.transformer import QueryTransformer, TransformerConfig

TINY = ["--shapes", "tiny", "--preset", "small", "--dim", "16", "--specific-dim", "8", "--device", "cpu",
        "--steps", "2", "--warmup", "0"]


def test_bytes_of_operators_views_aside():
    a, b = torch.zeros(8, 4), torch.zeros(4, 2)
    with OperatorCounter() as counted:
        c = a @ b
        c.view(4, 4).t()
        c.add_(1)
    assert counted.operators == 2 and counted.bytes == 4 * (8 * 4 + 4 * 2 + 8 * 2) + 4 * 2 * (8 * 2)


@pytest.mark.slow
def test_records_and_picture(tmp_path, capsys):
    out = tmp_path / "bench.json"
    records = main([*TINY, "--batch-size", "4", "8", "--epoch", "20", "--out", str(out)])
    assert json.loads(out.read_text())[1]["batch_size"] == 8
    small, large = records
    assert 1.9 < large["gflop_per_step"] / small["gflop_per_step"] < 2.1
    assert large["epoch_clips"] == 20 and large["epoch_steps"] == 2 and large["epoch_s"] > 0
    assert small["step_ms_min"] <= small["step_ms"] <= small["step_ms_max"]
    assert small["floor_ms"] < small["step_ms"]
    parts = small["forward_gflop"]
    assert {"Φ audio", "Ψ video", "term rec"} <= set(parts)
    # Ψ audio is one product of [4 clips × 2 seconds, 12] with [12, 16]
    assert parts["Ψ audio"] == pytest.approx(2 * 4 * 2 * 12 * 16 / 1e9)
    assert set(small["phase_ms"]) >= {"losses", "update (codebook)", "optimiser"}
    printed = capsys.readouterr().out
    assert printed.count("matrix product ceiling") == 2 and "epoch of 20 clips" in printed
    assert "AVT 8 fp32" in out.with_suffix(".svg").read_text() and out.with_suffix(".pdf").exists()


def test_captions_a_second(tmp_path, capsys):
    """All modes are measured; greedy writing says the same with and without the keys that it keeps."""
    record = captions(["--clips", "3", "--tokens", "4", "--length", "6", "--vocabulary", "30", "--repeats", "1",
                       "--device", "cpu", "--out", str(tmp_path / "b.json")])
    assert json.loads((tmp_path / "b.json").read_text()) == record
    assert set(record["captions_per_second"]) == {"greedy", "3 beams", "5 beams", "greedy, no keys kept"}
    assert min(record["captions_per_second"].values()) > 0 and "times no keys kept" in capsys.readouterr().out
    torch.manual_seed(0)
    transformer = QueryTransformer(30, TransformerConfig(caption_width=16, caption_heads=2, source_width=8)).eval()
    with torch.no_grad():
        queries = transformer.embedded_queries(5)
        _, prefix = transformer(queries, queries.shape[1], source=torch.randn(5, 4, 8))
    how = WritingConfig(beams=1, min_length=9, max_length=9)
    ids, _ = write(transformer, prefix, Marks(29, 3), how)
    assert torch.equal(ids, without_keys(transformer, prefix, Marks(29, 3), how)) and len(ids.unique()) > 3


@pytest.mark.slow
def test_a_step_of_captions_is_counted(capsys):
    (record,) = main(["--method", "uniq4cap", "--preset", "small", "--shapes", "captions", "--batch-size", "2",
                      "--steps", "1", "--warmup", "0", "--device", "cpu", "--set", "encoders=none", "caption_layers=1",
                      "caption_width=8", "caption_heads=1"])
    assert record["gflop_per_step"] > 0 and record["step_ms"] > 0


@pytest.mark.slow
def test_settings_of_another_method(capsys):
    """What SSPC costs beside the contrastive loss alone: a record with it and one without."""
    flags = ["--method", "multisk", *TINY[:2], "--preset", "small", "--device", "cpu", "--steps", "1", "--warmup", "0",
             "--batch-size", "4", "--set", "width=8", "joint-dim=8", "queue=40", "anchors=4"]
    (whole,) = main([*flags, "--against", "assignment=off"])
    plain, printed = whole["against"], capsys.readouterr().out
    assert 0 < whole["part_ms"]["assignments to anchors"] < whole["phase_ms"]["encode (Φ, Ψ, codes)"]
    assert plain["part_ms"] == {} and plain["set"] == ["assignment=off"]
    assert "of these: assignments to anchors" in printed and "| as asked for | assignment=off |" in printed
    assert whole["parameters"] - plain["parameters"] == 3 * 4 * (8 + 8) + 2 * 3  # anchors and their biases
    assert whole["operators_per_step"] > plain["operators_per_step"]
    for wrong, told in (("queue", "'queue' is not a pair NAME=VALUE"), ("dim=3", "dim: no setting of MultiSKConfig")):
        with pytest.raises(SystemExit):
            main([*flags, wrong])
        assert told in capsys.readouterr().err


def test_a_step_beside_another():
    """The share of the difference: what the step would be spared."""
    record = {"step_ms": 200.0, "peak_memory_mib": 400.0, "gflop_per_step": 10.0, "gbyte_per_step": 2.0,
              "parameters": 4e6, "batch_size": 8}
    record["against"] = record | {"step_ms": 150.0, "parameters": 3e6, "set": ["assignment=off"]}
    lines = [" ".join(line.split()) for line in comparison(record).splitlines()]
    assert lines[0] == "| batch 8 | as asked for | assignment=off | share of the difference |"
    assert "| step, ms | 200.0 | 150.0 | 25.0 % |" in lines and "| peak memory, MiB | 400.0 | 400.0 | 0.0 % |" in lines


def test_roofline_shows_every_record_beside_the_ceilings(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(roofline, "draw", lambda *given, draw=roofline.draw: drawn.append(given) or draw(*given))
    record = {"ceiling_gflop_per_second": 1000.0, "ceiling_gbyte_per_second": 10.0, "gflop_per_step": 50.0,
              "gbyte_per_step": 5.0, "gflop_per_second": 100.0, "modalities": ["video"], "batch_size": 8,
              "precision": "fp32", "compile": False, "cuda_graph": False, "device": "x"}
    other = record | {"modalities": ["video", "audio"], "precision": "bf16", "compile": True, "gflop_per_second": 7.0}
    draw([record, other], tmp_path / "b.svg")
    assert drawn == [("x", 1000.0, 10.0, [("V 8 fp32", 10.0, 100.0), ("AV 8 bf16, compiled", 10.0, 7.0)])]
    picture = (tmp_path / "b.svg").read_text()
    assert all(words in picture for words in ("AV 8 bf16, compiled", "best copy: 10 GB/s", "FLOP per byte moved"))
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")


def test_loading_costs_are_all_measured(tmp_path, capsys):
    from test_pretrain import write_clips

    path = write_clips(tmp_path / "clips.h5", n=64)
    record = loading(["--data", str(path), "--batch-size", "2", "--out", str(tmp_path / "loading.json")])
    assert json.loads((tmp_path / "loading.json").read_text()) == record
    assert record["clips"] == 64 and record["bytes_per_clip"] == 4 * (6 * 5 * 5 * 8 + 6 * 12 + 6 * 10)
    assert list(record["us_per_clip"]) == [
        "released layout, cold", "released layout, warm", "copy", "disk, blocks, cold", "disk, blocks, warm",
        "disk, row by row, cold", "memory", "memory, as float32"]
    assert min(record["us_per_clip"].values()) > 0 and "times a copy" in capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"clips.h5", "loading.json"}


def test_raw_clips_are_also_decoded(tmp_path, capsys):
    """The feature file and the media that it was extracted from; of other media, and of features, one line."""
    pytest.importorskip("av")
    from cmg.extract.__main__ import main as extract
    from support_media import levels, tone, write_video
    from test_pretrain import write_clips

    media, data = tmp_path / "media", str(tmp_path / "raw.h5")
    media.mkdir()
    for n in range(3):
        write_video(media / f"c{n}.mkv", levels(24, (40, 40)), 12, sound=8000 * tone(300 + n, 2, 16000))
    extract(["--videos", str(media), "--video-backbone", "frames", "--audio-backbone", "melimage", "--side", "16",
             "--rate", "2", "--seconds", "2", "--out", data, "--workers", "0"])
    record = loading(["--data", data, "--videos", str(media), "--batch-size", "2"])
    found = record["us_per_clip"]
    assert found["decoded"] > found["memory"] and "faster than decoding" in capsys.readouterr().out

    def line(*flags):
        with pytest.raises(SystemExit) as stop:
            loading(["--batch-size", "2", *flags])
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    (tmp_path / "others").mkdir()
    (media / "c0.mkv").rename(tmp_path / "others" / "d0.mkv")
    assert "none of the 3 clips is there" in line("--data", data, "--videos", str(tmp_path / "others"))
    (media / "c1.mkv").write_bytes(b"no film")
    assert "c1.mkv: video: " in line("--data", data, "--videos", str(media))
    features = str(write_clips(tmp_path / "clips.h5", n=4))
    assert "video holds grids of " in line("--data", features, "--videos", str(media))


@pytest.mark.slow
def test_a_step_of_raw_clips():
    """FLOPs by hand: of the products of CMMixer's small encoder and decoder forward, of 2 clips."""
    (record,) = main(["--method", "cmmixer", "--preset", "small", "--shapes", "raw", "--modalities", "video", "audio",
                      "--batch-size", "2", "--device", "cpu", "--steps", "1", "--warmup", "0"])
    patches, seen, D, d = 64, 17, 128, 64  # of 8×8 pixels; with the class token; widths

    def of_weights(n, width, layers):
        return layers * 12 * width**2 * n

    first = patches * 192 * D  # its input asks for no gradient
    forward = (first + of_weights(seen, D, 4) + seen * D * d + of_weights(patches + 1, d, 2) + 2 * patches * d * 192)
    attention = 4 * 2 * D * seen**2 + 2 * 2 * d * (patches + 1) ** 2
    # backward takes twice as many, and the scores again
    assert record["gflop_per_step"] == pytest.approx(2 * 2 * (3 * forward - first + 3.5 * attention) / 1e9, rel=1e-6)


def test_released_layout_holds_the_features(tmp_path):
    from test_pretrain import write_clips

    features = FeatureSet(write_clips(tmp_path / "clips.h5", n=5), cache="disk")
    written = write_released(features, range(5), tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in written] == [f"{m}/{i}.zip" for m in ("video", "audio")
                                                                     for i in range(5)]
    third = array_in_zip(tmp_path / "video" / "3.zip")  # what `cmg.data.convert` takes apart
    assert third.dtype == np.float64 and np.array_equal(third, features.stored([3])["video"][0].double().numpy())
    orders = [[3, 0], [4, 1]]
    batches = list(read_released(tmp_path, ["video", "audio"], orders))
    for rows, batch in zip(orders, batches, strict=True):
        expected = features.__getitems__(rows)
        assert all(batch[m].dtype == torch.float32 and torch.equal(batch[m], expected[m]) for m in ("video", "audio"))


def test_released_layout_needs_a_folder_to_write(tmp_path, monkeypatch, capsys):
    from test_pretrain import write_clips

    path = write_clips(tmp_path / "clips.h5", n=4)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmg.bench_loading.write_released", full)
    with pytest.raises(SystemExit) as stop:
        loading(["--data", str(path), "--batch-size", "2"])
    assert stop.value.code == 2
    assert f"{tmp_path}: cannot write the released layout here (No space left on device)" in capsys.readouterr().err


def test_the_released_layout_has_no_text(tmp_path, capsys):
    path = tmp_path / "text.h5"
    with FeatureWriter(path, {"text": (6, 10)}, {"source": "test"}) as writer:
        writer.append(["a", "b"], {"text": np.ones((2, 6, 10))}, {"text": np.ones((2, 6), bool)})
    with pytest.raises(SystemExit) as stop:
        loading(["--data", str(path), "--batch-size", "2"])
    assert stop.value.code == 2 and "holds text alone" in capsys.readouterr().err


# -- the check of a card ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_check_without_a_card_is_one_line_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(["--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err == ("cmg.gpu_check: error: no CUDA device here: nothing to check (a rehearsal: "
                                       "--device cpu --small)\n")


def test_check_writes_where_it_was_called(tmp_path, monkeypatch):
    """A relative --out: parts are processes that run in the checkout, and write into the caller's folder."""
    def part(args, folder):
        said = gpu_check.python("timeit", "-n1", "-r1", "-s", f"open({str(folder / 'seen')!r}, 'w').close()")
        return {"seen": (folder / "seen").exists(), "said": said[:4]}

    monkeypatch.setitem(gpu_check.PARTS, "bench", part)
    monkeypatch.chdir(tmp_path)
    gpu_check.main(["--device", "cpu", "--small", "--parts", "bench", "--out", "here"])
    record = json.loads((tmp_path / "here" / "gpu_check.json").read_text())
    assert record["parts"]["bench"]["found"] == {"seen": True, "said": "1 lo"}


def test_check_goes_on_after_any_error(tmp_path, monkeypatch):
    def full(args, folder):
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setitem(gpu_check.PARTS, "encoders", full)
    monkeypatch.setitem(gpu_check.PARTS, "resume", lambda args, folder: {"steps": 3})
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(["--device", "cpu", "--small", "--parts", "encoders", "resume", "--out", str(tmp_path)])
    parts = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert stop.value.code == 1
    assert parts["encoders"]["error"] == "no memory is left" and parts["resume"]["found"] == {"steps": 3}


@pytest.mark.slow
def test_a_system_that_does_not_fit_leaves_the_others(tmp_path, monkeypatch):
    whole = gpu_check.SYSTEMS["uniq4cap"]
    monkeypatch.setattr(gpu_check, "SYSTEMS", {"multisk": ("small", 2, ["--colour"]), "uniq4cap": whole})
    found = gpu_check.systems(SimpleNamespace(small=True, device="cpu"), tmp_path)
    assert "--colour" in found["multisk"] and found.keys() == {"records", "multisk"}
    (record,) = found["records"]
    assert (record["method"], record["batch_size"]) == ("uniq4cap", 2)
    page = gpu_check.report({"device": "here", "date": "", "commit": "", "versions": {"torch": ""}, "seconds": 1,
                             "small": True, "parts": {"systems": {"found": found, "seconds": 1}}})
    assert "--colour" in page and "| uniq4cap | video audio text |     2 |" in page


@pytest.mark.slow
def test_check_rehearsed(tmp_path, monkeypatch, capsys):
    """One of its parts as it is, after one that fails without stopping it."""
    monkeypatch.setitem(gpu_check.PARTS, "bench", lambda args, folder: gpu_check.python("cmg.bench", "--colour"))
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(["--device", "cpu", "--small", "--parts", "bench", "tests", "--out", str(tmp_path)])
    assert stop.value.code == 1 and capsys.readouterr().err.endswith("failed: bench\n")
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    assert "--colour" in record["parts"]["bench"]["error"] and "11 passed" in record["parts"]["tests"]["found"]["tests"]
    page = (tmp_path / "gpu_check.md").read_text()
    assert page.count("| passed |") == 1 and page.count("| FAILED |") == 1 and record["commit"] in page
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_check.json", "gpu_check.md"}


def test_a_device_is_named_in_good_english():
    torch.set_num_threads(2)
    two = device_name(torch.device("cpu"))
    torch.set_num_threads(1)
    assert (two, device_name(torch.device("cpu"))) == ("CPU, 2 threads", "CPU, 1 thread")
