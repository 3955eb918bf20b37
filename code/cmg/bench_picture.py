"""The roofline of a bench: what a device could reach at a step's intensity, and what the step reached. SVG, by hand."""

import math

LEFT, TOP, WIDTH, HEIGHT = 70, 30, 460, 300  # of the plot's area, pixels


def roofline(records):
    """Intensity (FLOP per byte moved) against GFLOP/s, both logarithmic: the roof as a line, every record a point.

    records : list of dicts as `cmg.bench` makes them; the roof is that of the first.
    """
    peak, copy = records[0]["ceiling_gflop_per_second"], records[0]["ceiling_gbyte_per_second"]
    points = [(r["gflop_per_step"] / r["gbyte_per_step"], r["gflop_per_second"], label(r)) for r in records]
    corner = peak / copy  # FLOP per byte at which the two ceilings meet
    x_range = decades([corner / 10, corner * 10, *(x for x, _, _ in points)])
    y_range = decades([peak, *(y for _, y, _ in points)])

    def place(x, y):
        return (LEFT + WIDTH * position(x, x_range), TOP + HEIGHT * (1 - position(y, y_range)))

    lines = [f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>']
    for exponent in range(x_range[0], x_range[1] + 1):
        x, _ = place(10.0**exponent, peak)
        lines.append(text(x, TOP + HEIGHT + 16, power(exponent), "middle"))
    for exponent in range(y_range[0], y_range[1] + 1):
        _, y = place(corner, 10.0**exponent)
        lines.append(text(LEFT - 6, y + 4, power(exponent), "end"))
    start = max(10.0 ** x_range[0], 10.0 ** y_range[0] / copy)
    roof = [place(start, start * copy), place(corner, peak), place(10.0 ** x_range[1], peak)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in roof)
    lines.append(f'<polyline points="{path}" fill="none" stroke="#333" stroke-width="2"/>')
    for number, (x, y, name) in enumerate(points):
        cx, cy = place(x, y)
        lines.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="5" fill="#3c64b4"/>')
        lines.append(text(cx + 8, cy + 4 + 13 * (number % 2), name, "start"))
    lines.append(text(LEFT, TOP - 12, f"{records[0]['device']}: {peak:.0f} GFLOP/s, {copy:.0f} GB/s", "start"))
    lines.append(text(LEFT + WIDTH / 2, TOP + HEIGHT + 34, "FLOP per byte moved", "middle"))
    lines.append(text(LEFT, TOP + HEIGHT + 34, "GFLOP/s", "end"))
    size = f'width="{LEFT + WIDTH + 150}" height="{TOP + HEIGHT + 44}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(lines) + "\n</svg>\n"


def how(record):
    """"bf16, compiled, CUDA graph": how a record's step was run."""
    return ", ".join([record["precision"], *["compiled"] * record["compile"], *["CUDA graph"] * record["cuda_graph"]])


def label(record):
    name = "".join(m for m in "AVT" if m in {m[0].upper() for m in record["modalities"]})
    return f"{name} {record['batch_size']} {how(record)}"


def decades(values):
    """Whole powers of ten around all values, at least one apart."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def position(value, exponents):
    """Where a value lies between two powers of ten, 0 to 1."""
    return (math.log10(value) - exponents[0]) / (exponents[1] - exponents[0])


def power(exponent):
    return f"{10.0**exponent:g}" if abs(exponent) < 5 else f"1e{exponent}"


def text(x, y, words, anchor):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
