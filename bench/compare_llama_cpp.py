#!/usr/bin/env python3
"""FreeKV against llama.cpp: the same GGUF file, machine, threads, KV type (f16) and text.

Both first generate greedily from a short prompt and must agree; then each cell is timed:
prefill of the next 2,048 tokens at an empty and at a 16K context, decode at a 32K context.
llama.cpp takes the better of flash attention on and off in each cell. Prints a table with the
bars of docs/verification.md and writes all figures with --json.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import llama_cpp

ROOT = pathlib.Path(__file__).resolve().parent.parent
PREFILL = 2048
PROMPT = "The old house stood at the end of the lane, and"


def freekv(program: str, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def load(model: str, context: int, threads: int, flash: bool) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        model_path=model, n_ctx=context, n_batch=512, n_ubatch=512, n_threads=threads,
        n_threads_batch=threads, flash_attn=flash, verbose=False, seed=0)


def check_same_text(args: argparse.Namespace) -> str:
    """Greedy text of both programs from one short prompt; exits when they differ."""
    ours = freekv(args.freekv, "run", "-m", args.model, "-p", PROMPT, "-n", "24", "--stats", "none",
                  "--policy", "full", "--threads", str(args.threads))
    llama = load(args.model, 512, args.threads, flash=False)
    tokens = llama.tokenize(PROMPT.encode(), add_bos=False, special=False)
    ids = [int(t) for t in
           freekv(args.freekv, "tokenize", args.model, "-p", PROMPT).split()]
    if ids != tokens:
        sys.exit(f"token ids differ: freekv {ids}, llama.cpp {tokens}")
    theirs = b""
    for token, _ in zip(llama.generate(tokens, temp=0.0, repeat_penalty=1.0), range(24)):
        if token == llama.token_eos():
            break
        theirs += llama.detokenize([token])
    # int8 activations in llama.cpp move logits a little: the first tokens must agree, later ones
    # may part at a near tie.
    ours, text = ours.rstrip("\n"), theirs.decode(errors="replace")
    common = len([None for a, b in zip(ours, text) if a == b])
    if ours[:12] != text[:12]:
        sys.exit(f"greedy texts differ: freekv {ours!r}, llama.cpp {text!r}")
    return f"greedy text agrees ({common} of {len(text)} characters)"


def measure_llama(args: argparse.Namespace, tokens: list[int], flash: bool) -> dict[str, float]:
    """Tokens/s of prefill at 0 and 16K and of decode at 32K, in one pass over a 32K context."""
    llama = load(args.model, 32768 + 256, args.threads, flash)
    llama.eval(tokens[:64])  # warm-up
    llama.reset()
    cells = {}

    def prefill(count: int) -> float:
        start = time.perf_counter()
        llama.eval(tokens[llama.n_tokens:llama.n_tokens + count])
        return count / (time.perf_counter() - start)

    cells["prefill_0"] = prefill(PREFILL)
    prefill(16384 - PREFILL)
    cells["prefill_16k"] = prefill(PREFILL)
    prefill(32768 - llama.n_tokens)
    seconds = []
    for i in range(40):
        start = time.perf_counter()
        llama.eval([tokens[i]])
        seconds.append(time.perf_counter() - start)
    cells["decode_32k"] = 1 / statistics.median(seconds[8:])
    return cells


def measure_freekv(args: argparse.Namespace) -> dict[str, float]:
    path = pathlib.Path(args.work) / "freekv_cells.json"
    policy = args.policy
    freekv(args.freekv, "bench", "-m", args.model, "--policies", "full", policy, "--budget", "512",
           "--sink", "64", "--contexts", f"{PREFILL},{16384 + PREFILL},32768", "--prefill-tokens",
           str(PREFILL), "--steps", "64", "--threads", str(args.threads), "--text", args.text,
           "--json", str(path))
    rows = {(row["policy"], row["context"]): row for row in json.loads(path.read_text())}
    return {
        "prefill_0": rows["full", PREFILL]["prefill_tok_s"],
        "prefill_16k": rows["full", 16384 + PREFILL]["prefill_tok_s"],
        "decode_32k": 1e3 / rows["full", 32768]["decode_ms"],
        "decode_32k_freekv": 1e3 / rows[policy, 32768]["decode_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--freekv", default=str(ROOT / "build/release/bin/freekv"))
    parser.add_argument("--model", default=str(ROOT / "models/freekv-demo.gguf"))
    parser.add_argument("--text", default=str(ROOT / "models/demo_document.txt"))
    parser.add_argument("--policy", default="freekv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default=str(ROOT / "build"))
    parser.add_argument("--json")
    args = parser.parse_args()

    print(check_same_text(args))
    ids = [int(t) for t in freekv(args.freekv, "tokenize", args.model, "-f", args.text).split()]
    tokens = (ids * (32768 // len(ids) + 1))[:32768]
    ours = measure_freekv(args)
    theirs = [measure_llama(args, tokens, flash) for flash in (False, True)]
    best = {cell: max(run[cell] for run in theirs) for cell in theirs[0]}
    best["decode_32k_freekv"] = best["decode_32k"]

    bars = {"prefill_0": 1.0, "prefill_16k": 1.5, "decode_32k": 2.0, "decode_32k_freekv": 10.0}
    names = {"prefill_0": "prefill, empty context", "prefill_16k": "prefill at 16K",
             "decode_32k": "dense decode at 32K", "decode_32k_freekv": "freekv (B=512) at 32K"}
    print(f"{'tokens/s':26}{'llama.cpp':>12}{'freekv':>12}{'ratio':>9}{'bar':>7}")
    ratios = {}
    for cell, bar in bars.items():
        ratios[cell] = ours[cell] / best[cell]
        verdict = "" if ratios[cell] >= bar else "  MISSED"
        print(f"{names[cell]:26}{best[cell]:12.0f}{ours[cell]:12.0f}{ratios[cell]:9.2f}{bar:7.1f}"
              f"{verdict}")
    if args.json:
        result = {"llama_cpp": llama_cpp.__version__, "threads": args.threads, "freekv": ours,
                  "llama_cpp_flash_off": theirs[0], "llama_cpp_flash_on": theirs[1],
                  "ratios": ratios}
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
