#!/usr/bin/env python3
"""Every GGUF type of weights against the gguf package, bit for bit.

Reading: blocks of random bytes, so that every bit pattern of quants, packed scales and f16 scales
(NaN and infinities too) occurs. Writing: random rows of many magnitudes, with zeros and ties.
"""
import pathlib
import subprocess
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
QUANTS = ROOT / "build/release/bin/quants"
READ = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
WRITTEN = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
BLOCKS = 20000


def ours(what: str, kind: str, data: np.ndarray, dtype: type) -> np.ndarray:
    done = subprocess.run([QUANTS, what, kind], input=data.tobytes(), capture_output=True)
    if done.returncode != 0:
        sys.exit(f"quants {what} {kind}: {done.stderr.decode().strip()}")
    return np.frombuffer(done.stdout, dtype)


def rows(random: np.random.Generator) -> np.ndarray:
    """Blocks of 32: normal numbers times powers of two, some constant, some on halves of a scale."""
    values = random.standard_normal((BLOCKS, 32)) * 2.0 ** random.integers(-20, 12, (BLOCKS, 1))
    values[::50] = 0
    values[1::50] = values[1::50, :1]
    values[2::50] = random.integers(-254, 255, values[2::50].shape) / 2
    values[2::50, 7] = 127  # scale 1
    values[3::50] *= random.integers(0, 2, values[3::50].shape)
    return values.astype(np.float32)


def main() -> None:
    random = np.random.default_rng(5)
    failures = 0

    def check(what: str, kind: str, got: np.ndarray, want: np.ndarray, unit: type) -> None:
        nonlocal failures
        differing = (got.view(unit) != want.view(unit))
        if want.dtype == np.float32:
            differing &= ~(np.isnan(got) & np.isnan(want))
        failures += bool(differing.any())
        print(f"{what:10} {kind:5} {want.size} {want.dtype}: {differing.sum()} differ"
              f"{' FAILED' if differing.any() else ''}")

    for kind in READ:
        qtype = GGMLQuantizationType[kind]
        data = random.integers(0, 256, BLOCKS * GGML_QUANT_SIZES[qtype][1], dtype=np.uint8)
        with np.errstate(all="ignore"):
            want = quants.dequantize(data, qtype)
        check("dequantize", kind, ours("dequantize", kind, data, np.float32), want, np.uint32)
    values = rows(random)
    for kind in WRITTEN:
        with np.errstate(all="ignore"):
            want = quants.quantize(values, GGMLQuantizationType[kind]).view(np.uint8).ravel()
        check("quantize", kind, ours("quantize", kind, values, np.uint8), want, np.uint8)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
