"""What a bench says: the table of a record, one record beside another, and the roofline."""

from cmg.downstream.results import markdown_table
from cmg.figures.names import together


def how(record):
    """"bf16, compiled, CUDA graph": how a record's step was run."""
    return ", ".join([record["precision"], *["compiled"] * record["compile"], *["CUDA graph"] * record["cuda_graph"]])


def draw(records, path):
    """The roofline; the ceilings are those of the first record."""
    from cmg.figures import roofline  # late, so that a bench without --out does without
    from cmg.figures.style import save

    first = records[0]
    points = [(f"{together(r['modalities'])} {r['batch_size']} {how(r)}", r["gflop_per_step"] / r["gbyte_per_step"],
               r["gflop_per_second"]) for r in records]
    return save(roofline.draw(first["device"], first["ceiling_gflop_per_second"], first["ceiling_gbyte_per_second"],
                              points), path)


def table(record):
    rows = [
        ["FLOPs a step", f"{record['gflop_per_step']:.1f} G"],
        ["operators a step", f"{record['operators_per_step']}"],
        ["bytes a step, nothing fused", f"{record['gbyte_per_step']:.2f} G"],
        ["step, median (min to max)",
         f"{record['step_ms']:.1f} ms ({record['step_ms_min']:.1f} to {record['step_ms_max']:.1f})"],
        ["floor by the ceilings", f"{record['floor_ms']:.1f} ms"],
        ["clips per second", f"{record['clips_per_second']:.1f}"],
        ["achieved", f"{record['gflop_per_second']:.1f} GFLOP/s"],
        ["matrix product ceiling", f"{record['ceiling_gflop_per_second']:.1f} GFLOP/s"],
        ["copy ceiling", f"{record['ceiling_gbyte_per_second']:.1f} GB/s"],
        ["share of the product ceiling", f"{100 * record['share_of_ceiling']:.1f} %"],
        ["peak memory", f"{record['peak_memory_mib']:.0f} MiB"],
        ["parameters", f"{record['parameters'] / 1e6:.1f} M"],
    ]
    if "epoch_s" in record:
        rows.append([f"epoch of {record['epoch_clips']} clips", f"{record['epoch_s']:.1f} s"])
    rows += [[f"time: {name}", f"{ms:.1f} ms"] for name, ms in record["phase_ms"].items()]
    rows += [[f"of these: {name}", f"{ms:.1f} ms, {100 * ms / record['step_ms']:.1f} % of a step"]
             for name, ms in record["part_ms"].items()]
    rows += [[f"forward: {name}", f"{gflop:.2f} GFLOP"] for name, gflop in list(record["forward_gflop"].items())[:6]]
    head = f"{record['preset']}, {' '.join(record['modalities'])}, batch {record['batch_size']}, {how(record)}"
    return markdown_table([head, record["device"]], rows)


def comparison(record):
    """A step beside that of the record's `against`, and what of it goes into the difference."""
    other = record["against"]
    rows = [[name, f"{record[key] / unit:.1f}", f"{other[key] / unit:.1f}",
             f"{100 * (1 - other[key] / record[key]):.1f} %"]
            for name, key, unit in (("step, ms", "step_ms", 1), ("peak memory, MiB", "peak_memory_mib", 1),
                                    ("FLOPs a step, G", "gflop_per_step", 1),
                                    ("bytes a step, nothing fused, G", "gbyte_per_step", 1),
                                    ("parameters, M", "parameters", 1e6))]
    return markdown_table([f"batch {record['batch_size']}", "as asked for", " ".join(other["set"]),
                           "share of the difference"], rows)
