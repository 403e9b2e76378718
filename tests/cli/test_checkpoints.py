#!/usr/bin/env python3
"""Malformed checkpoint folders: one line that names file and field, nothing else, exit code 2.

Every case is a good folder with one thing changed.
"""
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "build/release/bin/freekv"
LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, FFN, VOCAB = 2, 32, 4, 2, 16, 48, 64
Q = "model.layers.1.self_attn.q_proj.weight"

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": FFN,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
    "head_dim": DIM, "vocab_size": VOCAB, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "silu", "tie_word_embeddings": False}


def shapes() -> dict[str, list[int]]:
    tensors = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN],
               "lm_head.weight": [VOCAB, HIDDEN]}
    for i in range(LAYERS):
        layer = {"input_layernorm": [HIDDEN], "post_attention_layernorm": [HIDDEN],
                 "self_attn.q_proj": [HEADS * DIM, HIDDEN],
                 "self_attn.k_proj": [KV_HEADS * DIM, HIDDEN],
                 "self_attn.v_proj": [KV_HEADS * DIM, HIDDEN],
                 "self_attn.o_proj": [HIDDEN, HEADS * DIM],
                 "self_attn.q_norm": [DIM], "self_attn.k_norm": [DIM],
                 "mlp.gate_proj": [FFN, HIDDEN], "mlp.up_proj": [FFN, HIDDEN],
                 "mlp.down_proj": [HIDDEN, FFN]}
        tensors.update({f"model.layers.{i}.{name}.weight": s for name, s in layer.items()})
    return tensors


def safetensors(tensors: dict[str, list[int]], dtypes: dict[str, str] = {}) -> bytes:
    """A file of zeros."""
    header, at = {}, 0
    for name, shape in tensors.items():
        dtype = dtypes.get(name, "F32")
        size = {"F32": 4, "F16": 2, "I32": 4, "F8_E4M3": 1}[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def write_good(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors(shapes()))


def config(raw: str = "", **changes: object):
    """The same with some fields changed; `raw` replaces the value of rms_norm_eps in the text."""
    def edit(folder: pathlib.Path) -> None:
        fields = {k: v for k, v in {**CONFIG, **changes}.items() if v is not ...}
        text = json.dumps(fields)
        (folder / "config.json").write_text(text.replace("1e-06", raw) if raw else text)
    return edit


def weights(change):
    """The same with changed shapes; `change` may return dtypes."""
    def edit(folder: pathlib.Path) -> None:
        tensors = shapes()
        dtypes = change(tensors) or {}
        (folder / "model.safetensors").write_bytes(safetensors(tensors, dtypes))
    return edit


def bytes_of(change):
    def edit(folder: pathlib.Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
    return edit


def sharded(change=lambda index: None, files=(0, 1)):
    """Two shards, of which `files` are written, and an index that `change` edits."""
    def edit(folder: pathlib.Path) -> None:
        (folder / "model.safetensors").unlink()
        parts: list[dict] = [{}, {}]
        for i, (name, shape) in enumerate(shapes().items()):
            parts[i % 2][name] = shape
        names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
        for i in files:
            (folder / names[i]).write_bytes(safetensors(parts[i]))
        index = {"weight_map": {t: names[i] for i in range(2) for t in parts[i]}}
        change(index)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return edit


def rope(**fields: object):
    return config(rope_scaling={"rope_type": "yarn", "factor": 4.0, **fields})


SHARD = r"model-00001-of-00002\.safetensors"
CONFIG_FILE = r"config\.json: "
# Name, edit, what the line must match, further arguments.
BAD = [
    ("no tokenizer", lambda f: None, r"brings no tokenizer \(tokenizer\.json\)"),
    ("no config", lambda f: (f / "config.json").unlink(), r"directory without config\.json"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), r"neither model\.safetensors nor"),
    ("empty config", lambda f: (f / "config.json").write_text(""), r"config\.json.*empty"),
    ("config is no JSON", lambda f: (f / "config.json").write_text("{"), CONFIG_FILE + "is no JSON"),
    ("config is an array", lambda f: (f / "config.json").write_text("[]"), "must be an object"),
    ("NaN", config("NaN"), CONFIG_FILE + ".*'rms_norm_eps'"),
    ("Infinity", config("Infinity"), CONFIG_FILE + ".*'rms_norm_eps'"),
    ("overflowing number", config("1e999"), CONFIG_FILE + ".*'rms_norm_eps'"),
    ("not in a float", config("1e300"), CONFIG_FILE + r"rms_norm_eps is 1e\+300"),
    ("negative epsilon", config("-1e-6"), CONFIG_FILE + "rms_norm_eps is -1e-06"),
    ("negative size", config(hidden_size=-32), CONFIG_FILE + "hidden_size is -32"),
    ("float size", config(num_hidden_layers=2.5), CONFIG_FILE + r"num_hidden_layers is 2\.5"),
    ("text size", config(vocab_size="64"), CONFIG_FILE + "vocab_size is '64'"),
    ("zero heads", config(num_attention_heads=0), CONFIG_FILE + "num_attention_heads is 0"),
    ("huge layers", config(num_hidden_layers=10**9), CONFIG_FILE + "num_hidden_layers is 1000000000"),
    ("many layers", config(num_hidden_layers=10**7), "model.layers.2.input_layernorm"),
    ("missing size", config(intermediate_size=...), CONFIG_FILE + "intermediate_size is missing"),
    ("heads do not divide", config(num_key_value_heads=3),
     CONFIG_FILE + "num_attention_heads is 4, must be a multiple of num_key_value_heads, which is 3"),
    ("head dimension", config(head_dim=12), CONFIG_FILE + "head_dim is 12"),
    ("architecture", config(architectures=["MambaForCausalLM"]), CONFIG_FILE + ".*'MambaForCausalLM'"),
    ("no architecture", config(architectures=...), CONFIG_FILE + "architectures is missing"),
    ("architecture type", config(architectures="Llama"), CONFIG_FILE + "architectures is 'Llama'"),
    ("activation", config(hidden_act="gelu"), CONFIG_FILE + "hidden_act is 'gelu'"),
    ("quantised", config(quantization_config={"bits": 4}), CONFIG_FILE + "quantization_config"),
    ("rope type", rope(rope_type="longrope"), CONFIG_FILE + r"rope_scaling\.rope_type is 'longrope'"),
    ("rope factor", rope(factor=-1), CONFIG_FILE + r"rope_scaling\.factor is -1"),
    ("rope factor type", rope(factor="4"), CONFIG_FILE + r"rope_scaling\.factor is '4'"),
    ("no rope factor", config(rope_parameters={"rope_type": "linear"}),
     CONFIG_FILE + r"rope_parameters\.factor is missing"),
    ("rope is a text", config(rope_scaling="yarn"), CONFIG_FILE + "rope_scaling is 'yarn'"),
    ("rope base", config(rope_theta=0), CONFIG_FILE + "rope_theta is 0"),
    ("llama3 bands", config(rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
        "original_max_position_embeddings": 64}),
     CONFIG_FILE + r"rope_scaling\.low_freq_factor is 4, must be below high_freq_factor 1"),
    ("window", config(architectures=["MistralForCausalLM"], sliding_window=0),
     CONFIG_FILE + "sliding_window is 0"),
    ("context beyond the window", config(architectures=["Qwen3ForCausalLM"], sliding_window=64,
                                         use_sliding_window=True, max_window_layers=1),
     "context is 128, the model's sliding window is 64", "--ctx", "128"),
    ("context beyond the model", lambda f: None, "context is 129, must be 1 to the model's 128",
     "--ctx", "129"),
    ("partial rotation", config(rope_parameters={"rope_type": "default",
                                                 "partial_rotary_factor": 0.5}),
     CONFIG_FILE + r"rope_parameters\.partial_rotary_factor is 0\.5"),

    ("missing tensor", weights(lambda t: t.pop(Q) and None), Q),
    ("missing norm", weights(lambda t: t.pop("model.layers.0.self_attn.k_norm.weight") and None),
     "model.layers.0.self_attn.k_norm.weight"),
    ("missing output", weights(lambda t: t.pop("lm_head.weight") and None), "lm_head.weight"),
    ("extra bias", weights(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": [64]})),
     "q_proj.bias.*no place"),
    ("extra layer", config(num_hidden_layers=1), "model.layers.1.* of 1 layers"),
    ("shape", weights(lambda t: t.update({Q: [64, 30]})),
     r"model\.safetensors: .*" + Q + r" is 64 x 30, the configuration implies 64 x 32"),
    ("transposed", weights(lambda t: t.update({Q: [32, 64]})), "is 32 x 64, .* 64 x 32"),
    ("three dimensions", weights(lambda t: t.update({Q: [4, 16, 32]})), Q + ".*3 dimensions"),
    ("vocabulary", config(vocab_size=65), "embed_tokens.weight is 64 x 32, .* 65 x 32"),
    ("dtype", weights(lambda t: {Q: "I32"}), r"model\.safetensors: .*" + Q + ".* I32"),
    ("float8", weights(lambda t: {Q: "F8_E4M3"}), Q + ".* F8_E4M3"),
    ("truncated", bytes_of(lambda b: b[:-10]), r"model\.safetensors: .*data_offsets.*bytes of data"),
    ("truncated header", bytes_of(lambda b: b[:100]), r"model\.safetensors: header size is \d+"),
    ("seven bytes", bytes_of(lambda b: b[:7]), r"model\.safetensors: header size"),
    ("no bytes", bytes_of(lambda b: b""), r"model\.safetensors: .*empty"),
    ("trailing bytes", bytes_of(lambda b: b + b"x"), r"model\.safetensors: .*bytes of data"),
    ("huge header", bytes_of(lambda b: b"\xff" * 8 + b[8:]), "header size is 18446744073709551615"),
    ("deep header", bytes_of(lambda b: struct.pack("<Q", 10**6) + b"[" * 10**6), "header"),
    ("pickle", bytes_of(lambda b: b"PK\x03\x04" + b[4:]), "header size"),

    ("missing shard", sharded(files=(1,)), SHARD + ".*[Nn]o such file"),
    ("tensor in the wrong shard", sharded(lambda index: index["weight_map"].update(
        {Q: "model-00002-of-00002.safetensors" if index["weight_map"][Q].startswith("model-00001")
         else "model-00001-of-00002.safetensors"})), Q + r".*index\.json places it here"),
    ("shard outside", sharded(lambda index: index["weight_map"].update({Q: "../x.safetensors"})),
     r"index\.json: weight_map places .*\.\./x\.safetensors"),
    ("shard number", sharded(lambda index: index["weight_map"].update({Q: 1})),
     r"index\.json: weight_map\." + Q + " is 1"),
    ("no map", sharded(lambda index: index.pop("weight_map")), r"index\.json: weight_map is missing"),
    ("empty map", sharded(lambda index: index["weight_map"].clear()), "weight_map is empty"),
]


def main() -> None:
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name, edit, expected, *arguments in [
                ("good", lambda f: None, None), ("sharded", sharded(), None), *BAD]:
            folder = pathlib.Path(temporary) / "checkpoint"
            folder.mkdir()
            write_good(folder)
            edit(folder)
            command = (["info", folder] if expected is None
                       else ["run", "-p", "hi", "-m", folder, *arguments])
            done = subprocess.run([PROGRAM, *command], capture_output=True, timeout=60)
            error = done.stderr.decode(errors="replace")
            if expected is None:
                good = done.returncode == 0 and b"qwen3: 2 layers" in done.stdout
            else:
                good = (done.returncode == 2 and done.stdout == b"" and error.count("\n") == 1
                        and re.search(expected, error)
                        and (str(folder) in error or arguments))  # options are at fault, no file
            if not good:
                failures += 1
                print(f"FAILED {name}: {done.returncode}, {done.stdout[:80]}, {error}")
            if expected is not None and not arguments and name != "no tokenizer":
                # Conversion refuses the same with the same line, and leaves nothing.
                done = subprocess.run([PROGRAM, "convert", folder, folder / "out.gguf"],
                                      capture_output=True, timeout=60)
                if done.returncode != 2 or done.stderr.decode(errors="replace") != error or any(
                        "out.gguf" in path.name for path in folder.iterdir()):
                    failures += 1
                    print(f"FAILED convert {name}: {done.returncode}, {done.stderr}")
            shutil.rmtree(folder)
    print(f"{len(BAD) + 2 - failures} passed, {failures} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
