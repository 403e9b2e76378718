"""Writes the model and its tokenizer as a GGUF file of architecture `llama`."""

import json

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models

import gguf_file as g
from model import Config, Model
from tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, SPECIALS, with_qwen2_rules

LAYER_NAMES = {"attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v",
               "o": "attn_output", "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up",
               "down": "ffn_down"}


def tensor_names(layers):
    """Pairs (name in Model.state_dict(), name in the file), in the file's order."""
    names = [("embed", "token_embd.weight"), ("norm", "output_norm.weight")]
    for i in range(layers):
        names += [(f"layers.{i}.{ours}", f"blk.{i}.{theirs}.weight")
                  for ours, theirs in LAYER_NAMES.items()]
    return names


def tokenizer_metadata(tokenizer):
    """The tokenizer.* keys of a `tokenizers.Tokenizer`."""
    state = json.loads(tokenizer.to_str())
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    assert [vocab[t] for t in tokens] == list(range(len(tokens))), "ids must have no gaps"
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
    types = [3 if t in SPECIALS else 1 for t in tokens]  # 3: control, 1: normal
    return [
        ("tokenizer.ggml.model", g.STRING, "gpt2"),
        ("tokenizer.ggml.pre", g.STRING, "qwen2"),
        ("tokenizer.ggml.tokens", g.ARRAY, (g.STRING, tokens)),
        ("tokenizer.ggml.token_type", g.ARRAY, (g.I32, types)),
        ("tokenizer.ggml.merges", g.ARRAY, (g.STRING, merges)),
        ("tokenizer.ggml.bos_token_id", g.U32, vocab[END_OF_TEXT]),
        ("tokenizer.ggml.eos_token_id", g.U32, vocab[IM_END]),
        ("tokenizer.ggml.padding_token_id", g.U32, vocab[END_OF_TEXT]),
        ("tokenizer.ggml.add_bos_token", g.BOOL, False),
        ("tokenizer.chat_template", g.STRING, CHAT_TEMPLATE),
    ]


def model_metadata(c, kind):
    """The general.* and llama.* keys."""
    return [
        ("general.architecture", g.STRING, "llama"),
        ("general.type", g.STRING, "model"),
        ("general.name", g.STRING, "FreeKV demo"),
        ("general.size_label", g.STRING, "12M"),
        ("general.file_type", g.U32, g.FILE_TYPES[kind]),
        ("general.quantization_version", g.U32, 2),
        ("llama.vocab_size", g.U32, c.vocab),
        ("llama.context_length", g.U32, c.context),
        ("llama.embedding_length", g.U32, c.d_model),
        ("llama.block_count", g.U32, c.layers),
        ("llama.feed_forward_length", g.U32, c.ffn),
        ("llama.attention.head_count", g.U32, c.heads),
        ("llama.attention.head_count_kv", g.U32, c.kv_heads),
        ("llama.attention.key_length", g.U32, c.head_dim),
        ("llama.attention.value_length", g.U32, c.head_dim),
        ("llama.attention.layer_norm_rms_epsilon", g.F32, c.norm_eps),
        ("llama.rope.dimension_count", g.U32, c.head_dim),
        ("llama.rope.freq_base", g.F32, c.rope_theta),
    ]


def load_tokenizer(path):
    """The `tokenizers.Tokenizer` in a GGUF file written by export()."""
    meta = g.Reader(path).metadata
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    vocab = {t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind == 1}
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    tokenizer = with_qwen2_rules(Tokenizer(models.BPE(vocab=vocab, merges=merges)))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    return tokenizer


def export(path, model, tokenizer, kind="Q8_0"):
    """Writes `path`; matrices as `kind` (F32, F16, BF16 or Q8_0), norm weights as F32."""
    state = model.state_dict()
    tensors = []
    for ours, theirs in tensor_names(model.config.layers):
        array = state[ours].detach().float().cpu().numpy()
        tensors.append((theirs, array, kind if array.ndim == 2 else "F32"))
    g.write(path, model_metadata(model.config, kind) + tokenizer_metadata(tokenizer), tensors)


def load(path, device="cpu", dtype=torch.float32):
    """The model of a `llama` GGUF file, weights dequantised to float32; dtype as in Model."""
    reader = g.Reader(path)
    key = {k.removeprefix("llama."): v for k, v in reader.metadata.items()}
    config = Config(
        vocab=reader.tensors["token_embd.weight"][1][0], d_model=key["embedding_length"],
        layers=key["block_count"], heads=key["attention.head_count"],
        kv_heads=key["attention.head_count_kv"], head_dim=key["attention.key_length"],
        ffn=key["feed_forward_length"], rope_theta=key["rope.freq_base"],
        norm_eps=key["attention.layer_norm_rms_epsilon"], context=key["context_length"])
    model = Model(config, dtype)
    state = {ours: torch.from_numpy(np.ascontiguousarray(reader.tensor(theirs)))
             for ours, theirs in tensor_names(config.layers)}
    model.load_state_dict(state)
    return model.to(device).eval()
