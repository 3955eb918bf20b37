"""A table for a paper: LaTeX with booktabs, the best figure of a column in bold, ± over pretraining seeds."""

SPECIAL = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
           "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$", "↔": r"$\leftrightarrow$",
           "±": r"$\pm$", "Ψ": r"$\Psi$", "Φ": r"$\Phi$", "λ": r"$\lambda$"}


def latex(summary, shown, titles, chance) -> str:
    """A tabular of lines of `cmg.tables.report.summarise`.

    shown : list of (evaluation, direction, metric), the columns. titles, chance : of each; None for no chance.

    Best is the greatest mean, of ranks the least, as it is printed: what looks equal is equal. It needs
    \\usepackage{booktabs}.
    """
    found = {(line["name"], line["task"], line["direction"], line["metric"]): line for line in summary}
    names = list(dict.fromkeys(line["name"] for line in summary))
    best = {}
    for column in shown:
        values = [f"{line['value']:.1f}" for name in names if (line := found.get((name, *column)))
                  and line["value"] is not None]
        better = min if "rank" in column[2] else max
        best[column] = better(values, key=float) if len(values) > 1 else None

    def cell(line, column):
        if line is None or line["value"] is None:
            return "--"
        value = f"{line['value']:.1f}"
        value = rf"\textbf{{{value}}}" if value == best[column] else value
        return value + (rf" $\pm$ {line['value_std']:.1f}" if len(line["seeds"]) > 1 else "")

    def row(cells):
        return " & ".join(cells) + r" \\"

    return "\n".join([
        rf"\begin{{tabular}}{{l{'r' * len(shown)}}}", r"\toprule", row(["", *map(escaped, titles)]),
        r"\midrule", *(row([escaped(name), *(cell(found.get((name, *column)), column) for column in shown)])
                       for name in names),
        *([r"\midrule", row(["chance", *("--" if value is None else f"{value:.1f}" for value in chance)])]
          if any(value is not None for value in chance) else []),
        r"\bottomrule", r"\end{tabular}", ""])


def escaped(text: str) -> str:
    """Text as LaTeX prints it, on one line.

    >>> escaped("a_b 50% → c")
    'a\\\\_b 50\\\\% $\\\\to$ c'
    """
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
