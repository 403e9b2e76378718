#!/usr/bin/env python3
"""Logits of the demo model against the PyTorch implementation of the training script.

A 600-token prompt and 32 decode steps, teacher-forced. F32 weights and KV must agree to 2e-3, the
committed Q8_0 file with f16 KV to 2e-2: the largest over positions of |ours - theirs| / |theirs|.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/train_demo_model"))
import gguf_file  # noqa: E402
from reference_logits import logits as reference_logits  # noqa: E402

MODEL = ROOT / "models/freekv-demo.gguf"
DUMP = ROOT / "build/release/bin/dump_logits"
PROMPT, STEPS = 600, 32


def rewrite(source: pathlib.Path, target: pathlib.Path, kind: str) -> None:
    """The same file with every matrix stored as `kind`; metadata is kept byte for byte."""
    reader = gguf_file.Reader(str(source))
    # Metadata types are not in Reader: take the bytes between the header and the tensor list.
    raw, at = reader.raw, 24
    begin = at
    for _ in range(len(reader.metadata)):
        reader.at = at
        reader._take(gguf_file.STRING)
        reader._take(reader._take(gguf_file.U32))
        at = reader.at
    metadata = raw[begin:at]
    tensors = [(name, reader.tensor(name), kind if len(shape) == 2 else "F32")
               for name, (_, shape, _) in reader.tensors.items()]
    gguf_file.write(str(target), [], tensors)
    written = target.read_bytes()
    # Put the metadata back: the count is in the header, and the data starts at the next multiple.
    head_end = gguf_file.Reader(str(target)).at
    start = gguf_file.Reader(str(target)).start
    count = len(reader.metadata).to_bytes(8, "little")
    head = written[:16] + count + metadata + written[24:head_end]
    head += bytes(-len(head) % gguf_file.ALIGNMENT)
    target.write_bytes(head + written[start:])


def ours(model: pathlib.Path, backend: str, kv_type: str, policy: str, ids: list[int],
         prompt: int) -> np.ndarray:
    done = subprocess.run([DUMP, model, backend, kv_type, policy, str(prompt)],
                          input=" ".join(map(str, ids)).encode(), capture_output=True)
    if done.returncode != 0:
        sys.exit(f"dump_logits: {done.stderr.decode().strip()}")
    return np.frombuffer(done.stdout, np.float32).reshape(len(ids) - prompt + 1, -1)


def main() -> None:
    text = (ROOT / "models/demo_document.txt").read_text()
    done = subprocess.run([ROOT / "build/release/bin/freekv", "tokenize", MODEL, "-p", text[:8000]],
                          capture_output=True, check=True, text=True)
    ids = [int(t) for t in done.stdout.split()][:PROMPT + STEPS]
    assert len(ids) == PROMPT + STEPS, "the document is too short"

    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        models = {"Q8_0": (MODEL, "f16", 2e-2)}
        for kind, kv_type, bound in (("F32", "f32", 2e-3), ("F16", "f16", 2e-2),
                                     ("BF16", "bf16", 2e-2)):
            path = pathlib.Path(folder) / f"{kind}.gguf"
            rewrite(MODEL, path, kind)
            models[kind] = (path, kv_type, bound)
        for kind, (path, kv_type, bound) in models.items():
            want = reference_logits(str(path), ids)[PROMPT - 1:]
            # The scalar oracle is slow: it prefills less and decodes the rest.
            for backend, policy in (("cpu", "full"), ("cpu", "freekv"), ("reference", "full")):
                if backend == "reference" and kind not in ("F32", "Q8_0"):
                    continue
                got = ours(path, backend, kv_type, policy, ids, PROMPT)
                error = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
                verdict = "ok" if error.max() <= bound else "FAILED"
                failures += not error.max() <= bound
                print(f"{kind:5} KV {kv_type:4} {backend:9} {policy:7} relative error "
                      f"{error.max():.2e} (bound {bound:.0e}) {verdict}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
