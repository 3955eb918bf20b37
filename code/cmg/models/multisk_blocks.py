"""What MultiSK's towers are made of: gated projections, a transformer block, means over the tokens that exist."""

import torch
from torch import nn
from torch.nn import functional as F


class GatedProjection(nn.Module):
    """y ⊙ σ(U y + c) of y = W x + b: [.., in] -> [.., out]."""

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.linear, self.gate = nn.Linear(in_dim, out_dim), nn.Linear(out_dim, out_dim)

    def forward(self, x):
        y = self.linear(x)
        return y * torch.sigmoid(self.gate(y))


class TokenBlock(nn.Module):
    """A transformer block whose norms come first: [B, n, D] -> [B, n, D].

    x + attention(norm(x)), then x + mlp(norm(x)), with GELU, and an MLP as wide as the tokens. There is no code of
    position: tokens are a set.
    """

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for layer in (self.qkv, self.proj, self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x, exists):
        """exists : BoolTensor[B, n]; tokens that do not exist are not attended to. Every row needs one that does."""
        x = x + self.proj(self.attention(self.norm1(x), exists))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attention(self, x, exists):
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, n, D / heads)
        seen = F.scaled_dot_product_attention(*parts, attn_mask=exists[:, None, None, :])
        return seen.transpose(1, 2).flatten(2)  # (B, n, D)


def token_mean(x, exists):
    """Σ_t m_t x_t / (Σ_t m_t + 1e-5), the published mean over tokens [B, n, D] that exist: [B, D]."""
    weight = exists.to(x.dtype).unsqueeze(-1)  # (B, n, 1)
    return (x * weight).sum(1) / (weight.sum(1) + 1e-5)
