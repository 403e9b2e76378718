"""Trains the model for a given time, in phases of growing sequence length."""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import data
import tasks
from model import Model, causal_attention, layer_after, layer_before, linear, norm
from muon import Optimizer

# (sequence length, sequences in a batch, share of the time): 131,072 tokens a step throughout, so
# that what is compiled is compiled once. Circuits form in the short phases, where steps are cheap.
PHASES = ((512, 256, 0.07), (1024, 128, 0.19), (4096, 32, 0.22), (16384, 8, 0.20),
          (32768, 4, 0.23), (65536, 2, 0.09))
# A second, short cycle from the result: the phase at 64K comes when the learning rate is already
# low and leaves the answers at 8K and 32K worse; this brings them back, and further.
FINISH, FINISH_SECONDS, FINISH_PEAK = ((8192, 16, 0.4), (32768, 4, 0.6)), 48.0, 0.3
# What a token weighs in the loss: answers of a task that needs more practice weigh more, and the
# ledger's long answers less.
ANSWER_WEIGHTS = {"needle": 1.0, "multi_value": 1.5, "variable_tracking": 1.5, "room_chain": 1.0,
                  "ledger": 0.5}
TEXT_WEIGHT = 0.4
WARM_UP, LAST_LR = 0.02, 0.03


def token_losses(states, norm_weight, embed, targets, eps, dtype):
    """Cross entropy [N] in float32 and whether the best token is the target [N]."""
    logits = linear(norm(states, norm_weight, eps).to(dtype), embed).float()
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets


def with_backend(backend, repeat):
    """causal_attention on one backend; repeat: KV heads are copied rather than shared."""

    def attention(q, k, v):
        if repeat:
            k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], dim=2) for t in (k, v))
        with sdpa_kernel(backend):
            return causal_attention(q, k, v)

    return attention


def fastest_attention(config, log):
    """The fastest right implementation of causal attention on this GPU, by one trial each."""
    shapes = [(2, 32768, n, config.head_dim) for n in (config.heads, *2 * (config.kv_heads,))]
    inputs = [torch.randn(s, device="cuda", dtype=torch.bfloat16).requires_grad_() for s in shapes]
    best, best_time, expected = causal_attention, math.inf, None
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION),
                          ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        for repeat in (False, True):
            attention = with_backend(backend, repeat)
            try:
                for trial in range(3):
                    torch.cuda.synchronize()
                    start = time.monotonic()
                    out = attention(*inputs)
                    got = [out, *torch.autograd.grad(out.float().square().sum(), inputs)]
                    torch.cuda.synchronize()
                    seconds = time.monotonic() - start
            except RuntimeError as error:
                log(f"attention {name} repeat={repeat}: {str(error).splitlines()[0]}")
                continue
            expected = expected or [t.float() for t in got]
            gap = max(float(((a.float() - b).norm() / b.norm()).detach())
                      for a, b in zip(got, expected))
            log(f"attention {name} repeat={repeat}: {seconds * 1e3:.1f} ms, differs by {gap:.1e}")
            if gap < 0.02 and seconds < best_time:
                best, best_time = attention, seconds
    return best


def learning_rate(progress):
    """The schedule's factor at a share of the training time: warm-up, then a cosine."""
    if progress < WARM_UP:
        return progress / WARM_UP + 1e-3
    turn = math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP)))
    return LAST_LR + (1 - LAST_LR) * 0.5 * (1 + turn)


class Trainer:
    """One model in training: steps, statistics and snapshots."""

    def __init__(self, config, device, log, compiled=True):
        self.device, self.log = device, log
        cuda = device == "cuda"
        self.dtype = torch.bfloat16 if cuda else torch.float32
        self.model = Model(config, self.dtype).to(device)
        self.losses = token_losses
        if cuda:
            self.model.attention = fastest_attention(config, log)
        if compiled:
            self.model.before = torch.compile(layer_before, dynamic=False)
            self.model.after = torch.compile(layer_after, dynamic=False)
            self.losses = torch.compile(token_losses, dynamic=False)
        self.optimizer = Optimizer(self.model)
        self.micro, self.caution = 1, 1.0
        weights = [0.0, 0.0] + [ANSWER_WEIGHTS[t] for t in tasks.TASKS]
        self.weights = torch.tensor(weights, device=device)
        self.snapshot = None

    def backward(self, tokens, classes):
        """Adds a batch's gradients; loss, and correct [B, T]. tokens, classes [B, T + 1]."""
        targets, kinds = tokens[:, 1:], classes[:, 1:]
        weights = self.weights[kinds] / self.weights[kinds].sum().clamp(min=1)
        is_text = kinds == data.TEXT
        weights = weights + is_text * (TEXT_WEIGHT / is_text.sum().clamp(min=1))
        total, correct, rows = 0.0, [], -(-len(tokens) // self.micro)
        for i in range(0, len(tokens), rows):
            states = self.model.hidden(tokens[i:i + rows, :-1])
            losses, right = self.losses(states, self.model.norm, self.model.embed,
                                        targets[i:i + rows].flatten(), self.model.config.norm_eps,
                                        self.dtype)
            loss = (losses * weights[i:i + rows].flatten()).sum()
            loss.backward()
            total = total + loss.detach()
            correct.append(right.view(-1, targets.shape[1]))
        return total, torch.cat(correct)

    def step(self, tokens, classes, factor):
        """One optimizer step; falls back to smaller micro-batches when memory runs out."""
        while True:
            try:
                loss, correct = self.backward(tokens, classes)
                break
            except torch.OutOfMemoryError:
                if self.micro >= len(tokens):
                    raise
                self.micro *= 2
                self.log(f"out of memory: batches in {self.micro} parts from now on")
                for p in self.model.parameters():
                    p.grad = None
                torch.cuda.empty_cache()
        self.optimizer.step(factor * self.caution)
        return loss, correct

    def warm_up(self, length, batch):
        """Compiles everything on a random batch; the weights are left as they were."""
        tokens = torch.randint(0, 100, (batch, length + 1), device=self.device)
        start = time.monotonic()
        loss, _ = self.backward(tokens, torch.full_like(tokens, 2))
        self.log(f"compiled in {time.monotonic() - start:.1f} s, loss {float(loss):.3f}")
        for p in self.model.parameters():
            p.grad = None

    def keep(self, path=None):
        """A snapshot to go back to, also as a file."""
        self.snapshot = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if path:
            torch.save(self.snapshot, path)

    def restart(self, peak):
        """Forgets the optimizer's state; the next schedule's learning rates are times `peak`."""
        self.optimizer, self.caution = Optimizer(self.model), peak

    def go_back(self):
        """To the last snapshot, with half the learning rate."""
        self.model.load_state_dict(self.snapshot)
        self.restart(self.caution * 0.5)
        self.log(f"loss is not finite: back to the last snapshot, learning rate x {self.caution}")


def answer_scores(correct, classes):
    """Per task: (right tokens, tokens, whole answers right, answers); arrays [B, T]."""
    scores = {}
    for row, kinds in zip(correct, classes):
        edges = np.flatnonzero(np.diff(kinds)) + 1
        for begin, end in zip([0, *edges], [*edges, len(kinds)]):
            if kinds[begin] > data.TEXT:
                score = scores.setdefault(tasks.TASKS[kinds[begin] - 2], [0, 0, 0, 0])
                right = int(row[begin:end].sum())
                score[0] += right
                score[1] += int(end - begin)
                score[2] += int(right == end - begin)
                score[3] += 1
    return scores


def train(trainer, corpus, seconds, phases=PHASES, processes=13, seed=1, checkpoint=None,
          log_every=10.0):
    """Trains for `seconds`; returns (tokens seen, steps, history of logged scores)."""
    total_share, history = sum(p[2] for p in phases), []
    ends = np.cumsum([p[2] for p in phases]) / total_share * seconds
    following = data.loader(corpus, *phases[0][:2], seed, processes)
    trainer.warm_up(*phases[0][:2])
    trainer.keep()
    begin = last_log = last_keep = time.monotonic()
    seen = steps = counted = 0
    for index, (length, batch, _) in enumerate(phases):
        batches, following = following, None
        if batches is None:
            batches = data.loader(corpus, length, batch, seed, processes)
        while time.monotonic() - begin < ends[index]:
            now = time.monotonic() - begin
            if following is None and index + 1 < len(phases) and ends[index] - now < 6:
                following = data.loader(corpus, *phases[index + 1][:2], seed, processes)
            tokens, classes = next(batches)
            loss, correct = trainer.step(tokens.to(trainer.device, non_blocking=True).long(),
                                         classes.to(trainer.device, non_blocking=True).long(),
                                         learning_rate(now / seconds))
            seen, steps, counted = seen + length * batch, steps + 1, counted + length * batch
            if steps % 10 == 0 and trainer.device == "cuda":
                torch.cuda.synchronize()  # keeps the host at most 10 steps ahead
            if time.monotonic() - last_log < log_every:
                continue
            value = float(loss)
            if not math.isfinite(value):
                trainer.go_back()
                continue
            scores = answer_scores(correct.cpu().numpy(), classes[:, 1:].numpy())
            speed = counted / (time.monotonic() - last_log)
            history.append({"seconds": round(now), "length": length, "loss": round(value, 4),
                            "scores": scores})
            shown = "  ".join(f"{t[:6]} {s[0] / s[1]:.3f}/{s[2] / s[3]:.2f}"
                              for t, s in sorted(scores.items()))
            trainer.log(f"{now:5.0f} s  {length:5d}x{batch:<3d} step {steps:5d}  "
                        f"{speed / 1e6:.2f} Mtok/s  loss {value:.3f}  {shown}")
            last_log, counted = time.monotonic(), 0
            if time.monotonic() - last_keep > 60:
                trainer.keep(checkpoint)
                last_keep = time.monotonic()
        del batches
    trainer.keep(checkpoint)
    return seen, steps, history
