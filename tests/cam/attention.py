"""A small vision transformer, and LeGrad and Chefer's relevance in plain autograd from open attention."""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A block; how: how its attention is computed."""

    def __init__(self, width, heads, how):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.heads, self.how = heads, how

    def attend(self, tokens, kept=None):
        """The attention's output; kept: a list to keep its weights in."""
        count, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(count, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if kept is None and self.how == "fused":
            mixed = functional.scaled_dot_product_attention(q, k, v)
        elif kept is None and self.how == "folded":
            flat = [one.flatten(0, 1) for one in (q, k, v)]
            weights = torch.bmm(flat[0] / q.shape[-1] ** 0.5, flat[1].mT).softmax(-1)
            mixed = torch.bmm(weights, flat[2]).view_as(v)
        else:
            weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
            if kept is not None:
                kept.append(weights)
            mixed = weights @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, tokens, kept=None):
        tokens = tokens + self.attend(self.norm1(tokens), kept)
        return tokens + self.mlp(self.norm2(tokens))


class PlainViT(nn.Module):
    """Photographs (N, 3, 16, 24) to 5 classes by 2 x 3 patches; prefix: class and register tokens."""

    def __init__(self, how="fused", prefix=1, pool="class", depth=3, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(3, 8, 8, 8)
            self.first = nn.Parameter(torch.randn(1, prefix, 8))
            self.position = nn.Parameter(torch.randn(1, 6 + prefix, 8))
            self.blocks = nn.ModuleList(Block(8, 2, how) for _ in range(depth))
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)
        self.prefix, self.pool = prefix, pool
        self.double().eval()

    def begin(self, images):
        tokens = self.patches(images).flatten(2).mT
        return torch.cat([self.first.expand(len(images), -1, -1), tokens], dim=1) + self.position

    def end(self, tokens):
        tokens = self.norm(tokens)
        pooled = {
            "class": lambda: tokens[:, 0],
            "places": lambda: tokens[:, self.prefix :].mean(dim=1),
            "all": lambda: tokens.mean(dim=1),
        }
        return self.head(pooled[self.pool]())

    def forward(self, images):
        tokens = self.begin(images)
        for block in self.blocks:
            tokens = block(tokens)
        return self.end(tokens)

    def openly(self, images):
        """The scores, the attention of each block, and the tokens behind each, in a graph."""
        kept, tokens, behind = [], self.begin(images), []
        for block in self.blocks:
            tokens = block(tokens, kept)
            behind.append(tokens)
        return self.end(tokens), kept, behind


def images(count=3, size=(16, 24), seed=1):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def legrad_by_hand(attention, own_scores, prefix, grid):
    """Each block's part, (N, blocks, h, w), from its attention and own scores (N,); loops over all."""
    parts = []
    for weights, score in zip(attention, own_scores, strict=True):
        (gradient,) = torch.autograd.grad(score.sum(), weights, retain_graph=True)
        part = torch.zeros(len(weights), grid[0] * grid[1], dtype=weights.dtype)
        count, heads, queries = weights.shape[:3]
        for n in range(count):
            for head in range(heads):
                for query in range(queries):
                    part[n] += gradient[n, head, query, prefix:].clamp(min=0) / (heads * queries)
        parts.append(part.view(count, *grid) / len(attention))
    return torch.stack(parts, dim=1)


def chefer_by_hand(attention, score, rows, prefix, grid):
    """The map by whole relevance matrices, (N, h, w); rows: the tokens that the score reads."""
    gradients = torch.autograd.grad(score.sum(), attention, retain_graph=True)
    maps = []
    for n in range(len(score)):
        size = attention[0].shape[-1]
        relevance = torch.eye(size, dtype=attention[0].dtype)
        for weights, gradient in zip(attention, gradients, strict=True):
            spread = (weights[n] * gradient[n]).clamp(min=0).mean(dim=0).detach()
            relevance = relevance + spread @ relevance
        relevance = relevance - torch.eye(size, dtype=relevance.dtype)
        maps.append(relevance[rows].mean(dim=0)[prefix:].view(grid))
    return torch.stack(maps)
