#!/usr/bin/env python3
"""The speed bars of docs/verification.md that compare FreeKV with itself, in one run.

Decode with freekv at 64K against 4K and against dense attention at 64K, and the fast tier's bytes;
then the per-operation benchmarks' shares of the measured bandwidth and GEMM rate.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHORT, LONG = 4096, 65536
BUDGET = 512


def run_bench(args: argparse.Namespace, work: pathlib.Path) -> list[dict]:
    path = work / "speed_bars_rows.json"
    command = [args.bin / "freekv", "bench", "--policies", "full", args.policy, "--budget", BUDGET,
               "--sink", 64, "--window", 128, "--contexts", f"{SHORT},{LONG}", "--steps", 128,
               "--prefill-tokens", 512, "--threads", args.threads, "--json", path]
    if subprocess.run(list(map(str, command))).returncode != 0:
        sys.exit("freekv bench failed")
    return json.loads(path.read_text())


def share_counters(args: argparse.Namespace, work: pathlib.Path, program: str, cases: str,
                   counter: str) -> dict[str, float]:
    """A counter of the cases of a Google Benchmark program whose names match `cases`."""
    path = work / f"{program}.json"
    command = [args.bin / program, f"--benchmark_filter={cases}", f"--benchmark_out={path}",
               "--benchmark_out_format=json", "--benchmark_counters_tabular=true"]
    if subprocess.run(list(map(str, command))).returncode != 0:
        sys.exit(f"{program} failed")
    rows = json.loads(path.read_text())["benchmarks"]
    return {row["name"]: row[counter] for row in rows if counter in row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--policy", default="freekv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    work = ROOT / "build"

    rows = run_bench(args, work)
    by = {(row["policy"], row["context"]): row for row in rows}
    sparse, dense = by[args.policy, LONG], by["full", LONG]
    bars = [
        ("freekv decode, 64K / 4K", sparse["decode_ms"] / by[args.policy, SHORT]["decode_ms"],
         "<=", 1.4),
        ("freekv / full decode at 64K", sparse["decode_ms"] / dense["decode_ms"], "<=", 1 / 5),
        ("fast tier / whole cache at 64K", sparse["fast_kv_bytes"] / dense["fast_kv_bytes"], "<=",
         1 / 50),
    ]
    threads = f"threads:{args.threads}"
    attention = share_counters(args, work, "bench_decode_attention",
                               f"(32768|65536).*{threads}", "share")
    gemm = share_counters(args, work, "bench_linear", f"linear_prefill/.*/Q8_0/rows:512/{threads}",
                          "share_of_best_blas")
    weights = share_counters(args, work, "bench_decode_weights", f"Q4_K.*{threads}",
                             "share_of_read_bandwidth")
    bars += [(f"bandwidth share, {name}", share, ">=", 0.60) for name, share in weights.items()]
    bars += [(f"bandwidth share, {name}", share, ">=", 0.70) for name, share in attention.items()]
    bars += [(f"GEMM share, {name}", share, ">=", 0.70) for name, share in gemm.items()]
    print(f"\n{'bar':64}{'measured':>10}{'asked':>10}")
    for name, value, relation, bound in bars:
        holds = value <= bound if relation == "<=" else value >= bound
        print(f"{name:64}{value:10.3f}{relation:>5}{bound:5.2f}{'' if holds else '  MISSED'}")
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT,
                                capture_output=True, text=True).stdout.strip()
        cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                    if line.startswith("model name")), "unknown")
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"commit": commit, "cpu": cpu, "threads": args.threads,
                                         "rows": rows, "bandwidth_share": attention,
                                         "weight_bandwidth_share": weights,
                                         "gemm_share": gemm}, indent=1) + "\n")


if __name__ == "__main__":
    main()
