"""Commands with one thing wrong: a flag, or a file that is mutated with its structure in mind, by seed."""

import random
import shutil
from pathlib import Path

from inputs import AVS, made
from mutations import NUMBERS, TEXTS, mutate

from cmg import bench, bench_loading, cli, pretrain
from cmg.data import convert, pool
from cmg.downstream import (
    ave,
    ave_avvp,
    avs,
    avvp,
    captioning,
    codebook,
    neighbourhood,
    retrieval,
    separation,
    ucf_vggsound,
)
from cmg.extract import __main__ as extract
from cmg.released import checkpoints
from cmg.tables import __main__ as tables
from support import SMALL

# Left alone: what may rightly take long, starts processes, or is no input.
NOT = {"help", "workers", "epochs", "max_steps", "probe_epochs", "probe_seeds", "compile", "cuda_graph", "device",
       "out", "processes", "nproc", "dim", "specific_dim", "specific_layers", "codes", "config", "frames", "seconds",
       "steps", "warmup", "epoch", "jobs", "seeds", "preset", "shapes", "backbone", "backbone_weights", "size",
       "channels", "beams", "max_length", "toom_cook", "method"}


def commands(base):
    """name -> (kind of inputs, main, good arguments, the inputs that they read); {out} is where results go."""
    def of(kind, *names):
        return [f"{base}/{kind}/{name}" for name in names]

    clips, model, lists, events = of("plain", "clips.h5", "model.pt", "AVE", "AVVP")
    place = ["--device", "cpu", "--out", "{out}"]
    task = ["--checkpoint", model, "--data", clips, *place]
    probe = ["--probe-epochs", "2", "--probe-seeds", "1"]
    both, made_file = ["clips.h5", "model.pt"], ["--workers", "0", "--out", "{out}.h5"]
    of_ave = ["AVE/Annotations.txt", "AVE/trainSet.txt", "AVE/testSet.txt"]
    of_avvp = ["AVVP/AVVP_eval_audio.csv", "AVVP/AVVP_test_pd.csv", "AVVP/AVVP_train.csv"]
    pictures = [f"s4/s4_data/{kind}/test/red_box/test_0/test_0_1.png" for kind in ("visual_frames", "gt_masks")]
    captions, run, told = of("captioner", "clips.h5", "run/latest.pt", "captions.csv")
    table, folder = of("tabled", "t.toml", "out")
    cell = ["args.json", "metrics.csv", "ave/results.json", "ave/ave_strict_clips.npz"]
    (films,), (sounds, of_sounds, csv) = of("films", ""), of("plain", "sound", "npy", "captions.csv")
    return {
        "pretrain": ("plain", pretrain.main, ["--data", clips, "--modalities", "audio", "text", *SMALL, "--max-steps",
                                              "1", "--out", "{out}"], ["clips.h5"]),
        "pretrain of a config": ("plain", pretrain.main, ["--config", *of("plain", "args.json"), "--data", clips,
                                                          *SMALL, "--max-steps", "1", "--out", "{out}"],
                                 ["args.json"]),
        "extract": ("plain", extract.main, ["--videos", sounds, "--captions", csv, "--modalities", "audio", "text",
                                            "--seconds", "2", *made_file],
                    ["captions.csv", "sound/s0.wav", "sound/s1.wav"]),
        "extract films": ("films", extract.main, ["--videos", films, "--modalities", "video", "audio", "--seconds", "2",
                                                  *made_file], ["f0.mp4", "f1.mp4"]),
        "convert": ("plain", convert.main, ["zips", "--audio", of_sounds, *made_file], ["npy/s0.npy", "npy/s1.npy"]),
        "convert zips": ("plain", convert.main, ["zips", "--audio", *of("plain", "zip"), *made_file],
                         ["zip/s0.zip", "zip/s1.zip"]),
        "convert ave": ("release", convert.main, ["ave", "--features", *of("release", ""), "--annotations",
                                                  *of("release", ""), "--out", "{out}.h5"],
                        ["Annotations.txt", "visual_feature.h5", "audio_feature.h5", "labels.h5"]),
        "convert howto": ("howto", convert.main, ["howto", "--csv", *of("howto", "videos.csv"), "--features",
                                                  *of("howto", ""), "--captions", *of("howto", "caption.pkl"),
                                                  "--vectors", *of("howto", "w.bin"), *made_file],
                          ["videos.csv", "caption.pkl", "w.bin", "aaaaaaaaaaa_2d.npz", "aaaaaaaaaaa_spec.npz"]),
        "convert lists": ("lists", convert.main, ["lists", "--list", *of("lists", "list.pkl"), "--steps", "6",
                                                  "--vectors", *of("lists", "w.bin"), "--out", "{out}.h5"],
                          ["list.pkl", "w.bin"]),
        "pool": ("plain", pool.main, ["--data", clips, "--out", "{out}.h5"], ["clips.h5"]),
        "ave": ("plain", ave.main, [*task, *probe, "--annotations", lists], [*both, *of_ave]),
        "avvp": ("plain", avvp.main, [*task, *probe, "--annotations", events], [*both, *of_avvp]),
        "ave_avvp": ("plain", ave_avvp.main, [*task, *probe, "--annotations", lists, "--avvp-data", clips,
                                              "--avvp-annotations", events, "--classes", *of("plain", "classes.csv"),
                                              "--protocol", "paper"],
                     [*both, *of_ave, *of_avvp, "classes.csv"]),
        "ucf_vggsound": ("pairs", ucf_vggsound.main, ["--checkpoint", model, "--video-data", clips, "--audio-data",
                                                      clips, *place, *probe, "--annotations", *of("pairs", "")],
                         ["ucf2vggsound.csv", "vggsound2ucf.csv", "UCF101sameVGGSound.txt"]),
        "avs": ("segmented", avs.main, ["--annotations", *of("segmented", "s4"), "--checkpoint",
                                        *of("segmented", "model.pt"), "--epochs", "1", "--out", "{out}", *AVS],
                ["s4/s4_meta_data.csv", "model.pt", *pictures, "s4/s4_data/audio_wav/test/red_box/test_0.wav"]),
        "avs test": ("segmented", avs.main, ["--stage", "test", "--annotations", *of("segmented", "s4"), "--checkpoint",
                                             *of("segmented", "model.pt"), "--device", "cpu", "--out",
                                             *of("segmented", "run")],
                     ["run/best.pt", *pictures, "model.pt"]),
        "retrieval": ("plain", retrieval.main, [*task, "--groups", *of("plain", "groups.csv"), "--gallery", "audio",
                                                *probe], [*both, "groups.csv"]),
        "retrieval, zero-shot": ("plain", retrieval.main, task, both),
        "neighbourhood": ("plain", neighbourhood.main, [*task, "--neighbours", "3"], both),
        "captioning": ("captioner", captioning.main, ["--checkpoint", run, "--data", captions, "--captions", told,
                                                      "--beams", "1", "--max-length", "8", *place],
                       ["clips.h5", "run/latest.pt", "captions.csv"]),
        "separation": ("mixer", separation.main, ["--checkpoint", *of("mixer", "run/latest.pt"), "--data",
                                                  *of("mixer", "clips.h5"), *place], ["clips.h5", "run/latest.pt"]),
        "codebook": ("plain", codebook.main, task, both),
        "checkpoints": ("plain", checkpoints.main, [model, "{out}.pt"], ["model.pt"]),
        "tables": ("plain", tables.main, [*of("plain", "table.toml"), "--data", clips, "--out", "{out}"],
                   ["table.toml"]),
        "tables, done": ("tabled", tables.main, [table, "--data", "x.h5", "--seeds", "0", "--out", folder],
                         [f"out/{name}-seed0/{file}" for name in "ab" for file in cell]),
        "bench": ("plain", bench.main, ["--preset", "small", "--dim", "8", "--specific-dim", "8", "--shapes", "digits",
                                        "--batch-size", "2", "--steps", "1", "--warmup", "0", "--device", "cpu",
                                        "--modalities", "audio", "text", "--out", "{out}.json"], []),
        "bench_loading": ("plain", bench_loading.main, ["--data", clips, "--batch-size", "4"], ["clips.h5"]),
    }


def flags_of(main, argv):
    """The flags that a command's own parsers have, by asking for its help."""
    seen, original = {}, cli.Parser.parse_known_args

    def listen(self, args=None, namespace=None):
        seen.update({max(a.option_strings, key=len): a for a in self._actions if a.option_strings})
        return original(self, args, namespace)

    cli.Parser.parse_known_args = listen
    try:
        main([*argv[:1], "--no-such-flag"] if main is convert.main else ["--no-such-flag"])
    except SystemExit:
        pass
    finally:
        cli.Parser.parse_known_args = original
    return {flag: action for flag, action in seen.items() if action.dest not in NOT}


def trial(base, folder, seed):
    """Command `seed`: (name, main, argv, what is wrong), with inputs of its own in `folder`."""
    dice = random.Random(seed)
    every = commands(folder)
    name = dice.choice(sorted(every))
    kind, main, argv, inputs = every[name]
    for one in {kind, "plain"} if str(folder / "plain") in str(argv) else {kind}:
        shutil.copytree(made(base, one), folder / one)
    argv = [word.replace("{out}", f"{folder}/out") for word in argv]
    if inputs and (dice.random() < 0.6 or name == "checkpoints"):  # which has no flags
        path = Path(folder) / kind / dice.choice(inputs)
        return name, main, argv, f"{path.name}: {mutate(path, dice)}"
    flags = flags_of(main, argv)
    flag = dice.choice(sorted(flags))
    own = f"{folder}/{kind}/{dice.choice(inputs or ['clips.h5'])}"
    values = dice.choice([[], [dice.choice(NUMBERS)], [dice.choice(TEXTS)], [own], ["1", "2"]])
    return name, main, [*argv, flag, *values], f"{flag} {values}"
