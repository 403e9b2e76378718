"""Logits of a `llama` GGUF file by this folder's own model, for parity tests.

    python reference_logits.py MODEL.gguf --ids 1,2,3 --out logits.npy

Needs torch and numpy only. Attention here is written out in float32, without a fused kernel.
"""

import argparse
import json
import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gguf_file  # noqa: E402
from model import rope, rope_tables  # noqa: E402


def _norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def logits(gguf_path, token_ids, dtype=torch.float32):
    """float32 logits [T, vocab] of token_ids [T]; `dtype` is what it computes in."""
    reader = gguf_file.Reader(gguf_path)
    key = {k.removeprefix("llama."): v for k, v in reader.metadata.items()}
    heads, kv_heads = key["attention.head_count"], key["attention.head_count_kv"]
    width, eps = key["attention.key_length"], key["attention.layer_norm_rms_epsilon"]
    config = type("", (), {"head_dim": width, "rope_theta": key["rope.freq_base"]})

    def weight(name):
        return torch.from_numpy(reader.tensor(name + ".weight")).to(dtype)

    count = len(token_ids)
    cos, sin = (t.to(dtype) for t in rope_tables(config, torch.arange(count)))
    future = torch.ones(count, count, dtype=torch.bool).triu(1)
    embedding = weight("token_embd")
    x = embedding[torch.as_tensor(token_ids, dtype=torch.long)]
    for i in range(key["block_count"]):
        w = {n: weight(f"blk.{i}.{n}") for n in (
            "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate",
            "ffn_up", "ffn_down")}
        y = _norm(x, w["attn_norm"], eps)
        q = rope((y @ w["attn_q"].T).view(count, heads, width), cos, sin)
        k = rope((y @ w["attn_k"].T).view(count, kv_heads, width), cos, sin)
        v = (y @ w["attn_v"].T).view(count, kv_heads, width)
        out = []
        for h in range(heads):  # query head h reads KV head h / (heads / kv_heads)
            m = h // (heads // kv_heads)
            scores = (q[:, h] @ k[:, m].T) * width ** -0.5
            out.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ v[:, m])
        x = x + torch.cat(out, -1) @ w["attn_output"].T
        y = _norm(x, w["ffn_norm"], eps)
        gate = torch.nn.functional.silu(y @ w["ffn_gate"].T)
        x = x + (gate * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
    x = _norm(x, weight("output_norm"), eps)
    output = weight("output") if "output.weight" in reader.tensors else embedding
    return (x @ output.T).float().numpy()


def main():
    """Reads token ids from the command line or a JSON list and saves the logits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="1,2,3 or the path of a JSON list")
    parser.add_argument("--out", help=".npy or .json; without it, the last row's best 5 are shown")
    args = parser.parse_args()
    if os.path.exists(args.ids):
        with open(args.ids, encoding="utf-8") as file:
            ids = json.load(file)
    else:
        ids = [int(i) for i in args.ids.split(",")]
    result = logits(args.model, ids)
    if args.out and args.out.endswith(".json"):
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(result.tolist(), file)
    elif args.out:
        np.save(args.out, result)
    else:
        for token in np.argsort(-result[-1])[:5]:
            print(token, result[-1, token])


if __name__ == "__main__":
    main()
