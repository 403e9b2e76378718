#!/usr/bin/env python3
"""Peak memory of loading and converting a checkpoint, as a multiple of its weights (bar: 1.05).

Makes a BF16 folder of some 950 MB with random weights, runs a short prompt and four decode steps
on it, converts it to Q8_0, and prints the peak resident memory of both processes. Needs twice the
folder's size of disk for as long as it runs.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "build/release/bin"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
          "intermediate_size": 8192, "num_hidden_layers": 7, "num_attention_heads": 32,
          "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 16384, "rms_norm_eps": 1e-5,
          "rope_theta": 5e5, "max_position_embeddings": 4096, "hidden_act": "silu",
          "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
BAR = 1.05


def tensors() -> dict[str, torch.Tensor]:
    """Random weights, small enough that activations stay finite."""
    hidden, ffn, vocab = (CONFIG[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    torch.manual_seed(1)

    def matrix(rows: int, cols: int) -> torch.Tensor:
        return (torch.randn(rows, cols) * 0.02).to(torch.bfloat16)

    found = {"model.embed_tokens.weight": matrix(vocab, hidden),
             "lm_head.weight": matrix(vocab, hidden),
             "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16)}
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, cols in (
                ("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", kv, hidden),
                ("self_attn.v_proj", kv, hidden), ("self_attn.o_proj", hidden, hidden),
                ("mlp.gate_proj", ffn, hidden), ("mlp.up_proj", ffn, hidden),
                ("mlp.down_proj", hidden, ffn)):
            found[f"{prefix}{name}.weight"] = matrix(rows, cols)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}{name}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
    return found


def peak_bytes(command: list[str], stdin: str) -> int:
    """Runs the command; what `time` says was its largest resident set."""
    program = ("import resource, subprocess, sys\n"
               "done = subprocess.run(sys.argv[1:], stdin=sys.stdin, stdout=subprocess.DEVNULL)\n"
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
               "sys.exit(done.returncode)")
    done = subprocess.run([sys.executable, "-c", program, *command], input=stdin, text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]}: {done.stderr.strip()}")
    return int(done.stdout) * 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "model"
        folder.mkdir()
        weights = tensors()
        size = sum(t.numel() * t.element_size() for t in weights.values())
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        del weights
        (folder / "config.json").write_text(json.dumps(CONFIG))
        ids = " ".join(str(7 * i % 1000) for i in range(20))
        peaks = {
            "load, prefill, decode": peak_bytes(
                [str(BIN / "dump_logits"), str(folder), "cpu", "f16", "full", "16"], ids),
            "convert to q8_0": peak_bytes(
                [str(BIN / "freekv"), "convert", str(folder), str(folder.parent / "out.gguf"),
                 "--type", "q8_0"], ""),
        }
    print(f"weights {size / 2**20:.0f} MiB")
    for what, peak in peaks.items():
        ratio = peak / size
        print(f"{what:24}{peak / 2**20:8.0f} MiB  {ratio:.3f} of the weights"
              f"{'' if ratio <= BAR else '  MISSED'}")
    sys.exit(any(peak > BAR * size for peak in peaks.values()))


if __name__ == "__main__":
    main()
