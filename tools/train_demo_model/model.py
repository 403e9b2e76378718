"""The llama architecture in plain PyTorch: training, and greedy decoding with a KV cache.

Shapes: B sequences, T tokens, N = B*T, D = d_model, H query heads, M KV heads, d = head_dim,
F = ffn, V = vocab. RoPE turns the pairs (2i, 2i+1) of a head, as GGUF's `llama` does, so weights
are written to the file as they are.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    """Sizes of the model; the defaults are the demo model's (11.6M parameters)."""

    vocab: int = 4096
    d_model: int = 384
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 1024
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    context: int = 131072

    def as_dict(self):
        """The fields by name."""
        return asdict(self)


def rope_tables(config, positions):
    """cos and sin [N, 1, d/2] in float32 for integer positions [N]."""
    half = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float64)
    angles = positions.double()[:, None] * config.rope_theta ** (-half / config.head_dim)
    return angles.cos().float()[:, None], angles.sin().float()[:, None]


def rope(x, cos, sin):
    """x [N, heads, d] with every pair (2i, 2i+1) turned by its angle."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def norm(x, weight, eps):
    """RMSNorm of x [..., D] in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def linear(x, weight):
    """x [..., in] times weight [out, in], in x's type."""
    return F.linear(x, weight.to(x.dtype))


def layer_before(x, cos, sin, norm_weight, q, k, v, eps, width, dtype):
    """x [N, D] -> q [N, H, d], k and v [N, M, d], q and k turned by RoPE; d = width."""
    y = norm(x, norm_weight, eps).to(dtype)
    q, k, v = (linear(y, w).unflatten(-1, (-1, width)) for w in (q, k, v))
    return rope(q, cos, sin), rope(k, cos, sin), v


def layer_after(x, attended, norm_weight, o, gate, up, down, eps):
    """x [N, D] in float32 and attended [N, H*d] -> the layer's output [N, D] in float32."""
    x = x + linear(attended, o)
    y = norm(x, norm_weight, eps).to(attended.dtype)
    return x + linear(F.silu(linear(y, gate)) * linear(y, up), down)


def causal_attention(q, k, v):
    """q [B, T, H, d], k and v [B, T, M, d] -> [B, T, H*d]."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return y.transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """The weights of one layer; the work is in the functions above, compiled once for all."""

    def __init__(self, c):
        super().__init__()
        shapes = {"q": (c.heads * c.head_dim, c.d_model), "k": (c.kv_heads * c.head_dim, c.d_model),
                  "v": (c.kv_heads * c.head_dim, c.d_model), "o": (c.d_model, c.heads * c.head_dim),
                  "gate": (c.ffn, c.d_model), "up": (c.ffn, c.d_model), "down": (c.d_model, c.ffn)}
        self.attn_norm = nn.Parameter(torch.ones(c.d_model))
        self.ffn_norm = nn.Parameter(torch.ones(c.d_model))
        for name, shape in shapes.items():
            matrix = torch.zeros(shape)
            if name not in ("o", "down"):
                nn.init.normal_(matrix, std=c.d_model ** -0.5)
            setattr(self, name, nn.Parameter(matrix))


class Model(nn.Module):
    """The model; output weights are the embedding's."""

    def __init__(self, config, dtype=torch.float32):
        """dtype: what the matrix products are computed in; the residual stream is float32."""
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embed = nn.Parameter(torch.randn(config.vocab, config.d_model) * 0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.d_model))
        self.before, self.after, self.attention = layer_before, layer_after, causal_attention
        self.tables = None  # RoPE's, of the last (batch, length)

    def qkv(self, layer, x, cos, sin):
        """The part of a layer before attention: see layer_before."""
        c = self.config
        return self.before(x, cos, sin, layer.attn_norm, layer.q, layer.k, layer.v, c.norm_eps,
                           c.head_dim, self.dtype)

    def rest(self, layer, x, attended):
        """The part of a layer after attention: see layer_after."""
        return self.after(x, attended, layer.ffn_norm, layer.o, layer.gate, layer.up, layer.down,
                          self.config.norm_eps)

    def hidden(self, tokens, cache=None):
        """tokens [B, T] -> states [N, D] after the last layer; a list `cache` collects every
        layer's (k, v), each [B, T, M, d]."""
        batch, length = tokens.shape
        if self.tables is None or self.tables[0] != (batch, length):
            positions = torch.arange(length, device=tokens.device).repeat(batch)
            self.tables = (batch, length), rope_tables(self.config, positions)
        cos, sin = self.tables[1]
        x = F.embedding(tokens.flatten(), self.embed)
        for layer in self.layers:
            q, k, v = self.qkv(layer, x, cos, sin)
            q, k, v = (t.unflatten(0, (batch, length)) for t in (q, k, v))
            if cache is not None:
                cache.append((k, v))
            x = self.rest(layer, x, self.attention(q, k, v).flatten(0, 1))
        return x

    def logits(self, states):
        """States [N, D] -> logits [N, V] in self.dtype."""
        y = norm(states, self.norm, self.config.norm_eps).to(self.dtype)
        return linear(y, self.embed)

    def forward(self, tokens):
        """tokens [B, T] -> logits [B, T, V]."""
        return self.logits(self.hidden(tokens)).unflatten(0, tokens.shape)


class Decoder:
    """Greedy decoding of several prompts of different lengths at once."""

    def __init__(self, model, prompts, new_tokens):
        """prompts: list of token lists; at most new_tokens are generated for each."""
        c, device = model.config, model.embed.device
        self.model, self.device = model, device
        self.lengths = torch.tensor([len(p) for p in prompts], device=device)
        self.room = -(-(int(self.lengths.max()) + new_tokens) // 64) * 64
        dtype = model.dtype
        shape = (c.layers, len(prompts), c.kv_heads, self.room, c.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.next = torch.cat([self.prefill(i, p) for i, p in enumerate(prompts)])

    def prefill(self, row, prompt):
        """Fills the cache of one row; the first generated token [1]."""
        cache = []
        states = self.model.hidden(torch.tensor([prompt], device=self.device), cache)
        for i, (k, v) in enumerate(cache):
            self.keys[i, row, :, :len(prompt)] = k[0].transpose(0, 1)
            self.values[i, row, :, :len(prompt)] = v[0].transpose(0, 1)
        return self.model.logits(states[-1:]).argmax(-1)

    def step(self):
        """Feeds the last token of every row and picks the next ones [B]."""
        model, batch = self.model, len(self.lengths)
        c, rows = model.config, torch.arange(batch, device=self.device)
        cos, sin = rope_tables(c, self.lengths)
        mask = torch.arange(self.room, device=self.device) <= self.lengths[:, None]
        mask = mask[:, None, None]
        x = F.embedding(self.next, model.embed)
        for i, layer in enumerate(model.layers):
            q, k, v = model.qkv(layer, x, cos, sin)
            self.keys[i, rows, :, self.lengths] = k
            self.values[i, rows, :, self.lengths] = v
            q = q.unflatten(1, (c.kv_heads, -1))
            y = F.scaled_dot_product_attention(q, self.keys[i], self.values[i], attn_mask=mask)
            x = model.rest(layer, x, y.reshape(batch, -1))
        self.lengths = self.lengths + 1
        self.next = model.logits(x).argmax(-1)
        return self.next


@torch.no_grad()
def generate(model, prompts, new_tokens, stop):
    """Greedy continuations: a list of token lists, each cut before the token `stop`."""
    decoder = Decoder(model, prompts, new_tokens)
    taken, done = [decoder.next], decoder.next == stop
    for step in range(1, new_tokens):
        if step % 8 == 0 and bool(done.all()):
            break
        taken.append(decoder.step())
        done = done | (taken[-1] == stop)
    rows = torch.stack(taken, 1).tolist()
    return [row[:row.index(stop)] if stop in row else row for row in rows]
