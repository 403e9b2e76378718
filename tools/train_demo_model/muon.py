"""Muon for the layers' matrices, AdamW for everything else."""

import torch


def orthogonal(g, steps=5):
    """g [n, r, c] -> about the nearest matrices with orthonormal rows or columns."""
    x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, then the orthogonal matrix nearest to it, scaled to AdamW's usual step."""

    def __init__(self, matrices, momentum=0.95, weight_decay=0.05):
        self.momentum, self.weight_decay = momentum, weight_decay
        self.groups = {}
        for p in matrices:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {}

    @torch.no_grad()
    def step(self, lr):
        """One update with learning rate lr."""
        for shape, params in self.groups.items():
            g = torch.stack([p.grad.float() for p in params])
            buffer = self.buffers.setdefault(shape, torch.zeros_like(g))
            buffer.lerp_(g, 1 - self.momentum)
            update = orthogonal(g.lerp(buffer, self.momentum)).float()
            torch._foreach_mul_(params, 1 - lr * self.weight_decay)
            torch._foreach_add_(params, list(update.unbind()), alpha=-lr * 0.2 * max(shape) ** 0.5)


class Optimizer:
    """Both optimizers behind one step(); gradients are clipped, a step that is not finite is 0."""

    def __init__(self, model, matrix_lr=3e-3, other_lr=2e-3, clip=1.0):
        matrices = [p for p in model.layers.parameters() if p.ndim == 2]
        taken = {id(p) for p in matrices}
        self.params = list(model.parameters())
        others = [p for p in self.params if id(p) not in taken]
        self.matrix_lr, self.other_lr, self.clip = matrix_lr, other_lr, clip
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0,
                                      fused=self.params[0].is_cuda)

    def step(self, factor):
        """factor: the schedule's share of the learning rates; gradients are cleared."""
        grads = [p.grad for p in self.params]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        scale = torch.where(norm.isfinite(), (self.clip / (norm + 1e-6)).clamp(max=1.0), 0.0)
        for g in grads:
            torch.nan_to_num_(g, 0.0, 0.0, 0.0)
        torch._foreach_mul_(grads, scale)
        for group in self.adam.param_groups:
            group["lr"] = self.other_lr * factor
        self.adam.step()
        self.muon.step(self.matrix_lr * factor)
        for p in self.params:
            p.grad = None
