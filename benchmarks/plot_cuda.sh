#!/usr/bin/env bash
# Draws what freekv bench --shape ... --json wrote: time per token against the context for each
# policy, and the bars of --ablation. Which is which the files say themselves.
# benchmarks/plot_cuda.sh [FILE.json ...]  (default: benchmarks/results/cuda_*.json)
# Writes docs/images/cuda_decode_SHAPE.svg and docs/images/cuda_ablation.svg. Needs gnuplot-nox and
# python3.
set -euo pipefail
cd "$(dirname "$0")/.."
files=("$@")
if ((!${#files[@]})); then
  shopt -s nullglob
  files=(benchmarks/results/cuda_*.json)
  ((${#files[@]})) || { echo "plot_cuda.sh: no benchmarks/results/cuda_*.json" >&2; exit 1; }
fi
for tool in gnuplot python3; do
  command -v "$tool" >/dev/null || { echo "plot_cuda.sh: $tool is missing (apt install gnuplot-nox python3)" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p docs/images

# A gnuplot script and its data per picture.
python3 - "$work" "${files[@]}" <<'PYTHON'
import collections
import json
import os
import sys

work, files = sys.argv[1], sys.argv[2:]
COLOURS = ["#2a78d6", "#d97706", "#1b7f5c", "#8b5cf6", "#b8405e", "#5b6470"]
HEAD = """set terminal svg size 760,420 font "sans-serif,13" background "white"
set output "{output}"
set border 3 lc rgb "#8a8f98"
set tics nomirror textcolor rgb "#3c4149"
set grid y lc rgb "#e4e6ea" lt 1
set title "{title}" textcolor rgb "#1d2026"
"""


def quoted(text):
    return str(text).replace("\\", "").replace('"', "'")


def write(name, script):
    with open(os.path.join(work, name + ".gp"), "w") as file:
        file.write(script)


def tokens(n):
    return f"{n // 1024}K" if n < 1 << 20 else f"{n / (1 << 20):g}M"


def rounded(ms):
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def draw_decode(shape, rows, machine):
    lines = collections.defaultdict(dict)
    for row in rows:
        lines[row["policy"], row["batch"]][row["context"]] = row["decode_ms"]
    contexts = sorted({row["context"] for row in rows})
    script = HEAD.format(output=f"docs/images/cuda_decode_{shape}.svg",
                         title=quoted(f"Decode, {shape}, {machine}"))
    script += "set logscale x 2\nset xlabel 'tokens of context'\nset ylabel 'ms per step'\n"
    script += "set yrange [0:*]\nset key top left reverse Left\n"
    script += "set xtics (%s)\n" % ", ".join(f'"{tokens(c)}" {c}' for c in contexts)
    # One context is a point, not an axis.
    script += f"set xrange [{contexts[0] * 0.8}:{contexts[-1] * 1.25}]\n"
    plots = []
    for i, ((policy, batch), points) in enumerate(sorted(lines.items())):
        script += f"$line{i} << EOD\n"
        script += "".join(f"{c} {ms}\n" for c, ms in sorted(points.items())) + "EOD\n"
        plots.append(f"$line{i} with linespoints lw 2 pt 7 ps 0.7 lc rgb "
                     f"'{COLOURS[i % len(COLOURS)]}' title '{quoted(policy)}, batch {batch}'")
    floor = min(row["weights_ms"] for row in rows)
    plots.append(f"{floor} with lines dt 2 lw 1.5 lc rgb '#8a8f98' title 'weights read once'")
    write(f"decode_{shape}", script + "plot " + ", \\\n  ".join(plots) + "\n")


def draw_ablation(rows, machine):
    row = rows[0]
    title = f"{row['shape']}, {tokens(row['context'])}, batch {row['batch']}, {machine}"
    script = HEAD.format(output="docs/images/cuda_ablation.svg", title=quoted(title))
    script += "unset key\nset grid noy\nset grid x lc rgb '#e4e6ea' lt 1\n"
    script += "set logscale x\nset xlabel 'ms per step (logarithmic)'\n"
    script += f"set yrange [{len(rows) - 0.4}:-0.6]\n"
    low, high = min(r["decode_ms"] for r in rows), max(r["decode_ms"] for r in rows)
    script += f"set xrange [{low / 2}:{high * 12}]\nset tics scale 0.5\n"
    script += "set ytics (%s)\n" % ", ".join(
        f'"{quoted(r["stage"])}" {i}' for i, r in enumerate(rows))
    script += "$bars << EOD\n"
    for i, r in enumerate(rows):
        script += f'{r["decode_ms"]} {i} "{rounded(r["decode_ms"])} ms  ({r["factor"]:.1f}x)"\n'
    script += "EOD\n"
    script += (f"plot $bars using ({low / 2}):2:({low / 2}):1:($2-0.32):($2+0.32) with boxxyerror "
               f"fs solid 1 noborder lc rgb '{COLOURS[0]}', \\\n"
               "  $bars using 1:2:3 with labels left offset 0.6,0 textcolor rgb '#3c4149'\n")
    write("ablation", script)


decode = collections.defaultdict(list)
machines = {}
for name in files:
    with open(name) as file:
        result = json.load(file)
    kind = result.get("kind") if isinstance(result, dict) else None
    if kind == "decode":
        for row in result["rows"]:
            # Figures of the mechanisms that stand for other systems belong to the ablation.
            plain = row["policy"] == "full" or (row["mechanism"] == "gather" and row["graph"])
            forced = result["options"]["drift"] == 0  # a bar of its own, not the usual case
            if plain and not forced:
                decode[row["shape"]].append(row)
                machines[row["shape"]] = result["machine"]["gpu"]
    elif kind == "ablation" and result["rows"]:
        draw_ablation(result["rows"], result["machine"]["gpu"])
    elif kind not in ("gather", "prefill"):  # tables, not pictures
        print(f"plot_cuda.sh: {name} is not from freekv bench --shape, left out", file=sys.stderr)
for shape, rows in decode.items():
    draw_decode(shape, rows, machines[shape])
PYTHON

shopt -s nullglob
scripts=("$work"/*.gp)
((${#scripts[@]})) || { echo "plot_cuda.sh: nothing to draw in ${files[*]}" >&2; exit 1; }
for script in "${scripts[@]}"; do
  gnuplot "$script"
  sed -n 's/^set output "\(.*\)"$/\1/p' "$script"
done
