"""Networks for rows of a table, x (B,D) as views of tables have it: an MLP, a residual MLP and a transformer on features.

Gorishniy, Rubachev, Khrulkov, Babenko, NeurIPS 2021, https://arxiv.org/abs/2106.11959 (ResNet and FT-Transformer, section 3);
Gorishniy, Rubachev, Babenko, NeurIPS 2022, https://arxiv.org/abs/2203.05556 (piecewise linear encoding of numbers, section 3.2).
`features` describes x: for each feature its name, its number of values (which are followed by an indicator of a missing value), and the
edges of a number's bins (empty for a category).

Differs from the papers: widths and depths are for small tables and CPUs; the blocks of the FT-Transformer are those of a ViT (pre-norm,
GELU, no dropout), and its column vectors are added as positions are, so that masked models can drop tokens before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.mlp import mlp
from untaught.blocks.transformer import Transformer
from untaught.core import Encoder, Features, UserError, View
from untaught.ops.masking import take
from untaught.ops.piecewise_linear import piecewise_linear
from untaught.ranges import Few, Width, in_range


def inputs_of(features: Any) -> int:
    """D, the numbers of a row."""
    return sum(int(one["values"]) + 1 for one in features)


class MlpTable(Encoder):
    """x (B,D) -> (B, width): linear layers with BatchNorm and ReLU behind each. SCARF's has 4 of width 256."""

    @in_range
    def __init__(self, *, features: Any, width: Width = 256, depth: Few = 4) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(mlp(inputs_of(features), *[width] * depth, last_norm=True), nn.ReLU())

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.layers(view.x))


class _Residual(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class ResNetTable(Encoder):
    """x (B,D) -> (B, width): a linear layer, residual blocks (BatchNorm, linear, ReLU, linear; 2021, section 3.2), BatchNorm and ReLU."""

    @in_range
    def __init__(self, *, features: Any, width: Width = 192, depth: Few = 3, hidden: Width = 256) -> None:
        super().__init__()
        self.width = width
        blocks = [_Residual(width, hidden) for _ in range(depth)]
        self.layers = nn.Sequential(nn.Linear(inputs_of(features), width), *blocks, nn.BatchNorm1d(width), nn.ReLU())

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.layers(view.x))


class Vocabulary(nn.Module):
    """Scores for each value of each feature: its categories, and the bins of its number."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.scores = nn.Linear(width, size)

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens (...,D) -> (...,E), weight (V,E), bias (V,)."""
        return self.transform(tokens), self.scores.weight, self.scores.bias


class FTTransformer(Encoder):
    """x (B,D) -> pooled (B, width), the class token; tokens and layers (B,F,width), one token per feature, in the order of the features.

    A number's token is a linear function of its piecewise linear encoding, a category's is a vector per value; a missing value has its own
    vector. The vector of a column is added to all its tokens (2021, equation 1).
    """

    offers = frozenset({"tokens", "layers", "bidirectional", "words", "columns"})
    patch = 1

    @in_range
    def __init__(self, *, features: Any, width: Width = 64, depth: Few = 3, heads: Few = 4) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"encoder.width={width}: must be a multiple of its {heads} heads")
        self.width, self.names = width, [str(one["name"]) for one in features]
        sizes = [int(one["values"]) for one in features]
        edges = [[float(edge) for edge in one["edges"]] for one in features]
        self.sizes = [len(own) - 1 if own else size for own, size in zip(edges, sizes, strict=True)]  # bins or categories
        numbers = [at for at, own in enumerate(edges) if own]
        categories = [at for at, own in enumerate(edges) if not own]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size + 1)
        bins = max([1, *(len(own) - 1 for own in edges if own)])
        keep = lambda name, value: self.register_buffer(name, value, persistent=False)  # noqa: E731
        whole = lambda values: torch.tensor(values, dtype=torch.long)  # noqa: E731
        keep("number_at", whole([starts[at] for at in numbers]))
        keep("missing_at", whole([starts[at] + sizes[at] for at in range(len(sizes))]))
        keep("place", whole([*numbers, *categories]).argsort())  # of each feature among numbers, then categories
        keep("bins", whole([len(edges[at]) - 1 for at in numbers]))
        keep(
            "edges",
            torch.tensor([edges[at] + [edges[at][-1]] * (bins + 1 - len(edges[at])) for at in numbers]).reshape(len(numbers), bins + 1),
        )
        most = max([1, *(sizes[at] for at in categories)])
        slots = [[starts[at] + code if code < sizes[at] else starts[-1] for code in range(most)] for at in categories]
        keep("slots", whole(slots).reshape(len(categories), most))
        offsets = [0]
        for at in categories:
            offsets.append(offsets[-1] + sizes[at])
        keep("offsets", whole(offsets[:-1]))
        self.values = offsets[-1]
        self.numbers = nn.Parameter(torch.randn(len(numbers), bins, width) * bins**-0.5)
        self.categories = nn.Embedding(self.values + 1, width, padding_idx=self.values)  # the last: none, unseen or hidden
        self.missing = nn.Parameter(torch.randn(len(features), width) * 0.02)
        self.columns = nn.Parameter(torch.randn(len(features), width) * 0.5)
        self.first = nn.Parameter(torch.randn(width) * 0.02)
        self.transformer = Transformer(width, depth, heads)
        self.vocabulary = sum(self.sizes)

    @torch.no_grad()
    def adopt(self, trained: Encoder) -> None:
        assert isinstance(trained, FTTransformer)
        own, theirs = (
            {name: (one.missing[at], one.columns[at], one._values_of(at)) for at, name in enumerate(one.names)} for one in (self, trained)
        )
        for name in own.keys() & theirs.keys():
            for into, value in zip(own[name], theirs[name], strict=True):
                into.copy_(value)
        self.first.copy_(trained.first)
        self.transformer.load_state_dict(trained.transformer.state_dict())

    def _values_of(self, feature: int) -> Tensor:
        """The vectors of a feature's bins or categories (n,width), a view of the weights."""
        place, size = int(self.place[feature]), self.sizes[feature]  # type: ignore[index]
        if place < len(self.numbers):
            return self.numbers[place, :size]
        start = int(self.offsets[place - len(self.numbers)])  # type: ignore[index]
        return self.categories.weight[start : start + size]

    @property
    def blocks(self) -> nn.Module:
        return self.transformer.blocks

    def grid(self, view: View) -> tuple[int, ...]:
        return (len(self.names),)

    def words(self) -> Vocabulary:
        return Vocabulary(self.width, self.vocabulary)

    def shallower(self, share: float) -> Encoder:
        raise UserError(
            "ft_transformer reads rows, not the ids of tokens that a generator replaces; use mlm, or a view of redrawn features"
        )

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return self.context(*self.embed(view), want=want)

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        x = view.x
        encoded = piecewise_linear(x[:, self.number_at], self.edges, self.bins)  # type: ignore[arg-type, index]
        numbers = torch.einsum("bnt,ntd->bnd", encoded.to(self.numbers.dtype), self.numbers)
        missing = x[:, self.missing_at]  # type: ignore[index]
        tokens = numbers
        if len(self.offsets):  # type: ignore[arg-type]
            wide = F.pad(x, (0, 1))[:, self.slots]  # type: ignore[index]
            code = wide.argmax(2)
            seen = wide.amax(2) > 0.5
            own = self.categories(torch.where(seen, code + self.offsets, self.values))  # type: ignore[operator]
            tokens = torch.cat([numbers, own], 1)
        tokens = tokens[:, self.place] * (1 - missing).unsqueeze(2) + missing.unsqueeze(2) * self.missing  # type: ignore[index]
        return tokens, None

    def context(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        causal: bool = False,
        want: tuple[str, ...] = ("tokens",),
    ) -> Features:
        if causal:
            raise UserError("ft_transformer is bidirectional; columns have no order")
        count = tokens.shape[0]  # len() would be a constant of an exported program
        columns = self.columns.expand(count, -1, -1)
        tokens = tokens + (columns if at is None else take(columns, at)).to(tokens.dtype)
        x = torch.cat([self.first.to(tokens.dtype).expand(count, 1, -1), tokens], 1)
        mask = None
        if valid is not None:
            mask = torch.cat([valid.new_ones(len(valid), 1), valid], 1)[:, None, None, :]
        layers = []
        for block in self.transformer.blocks:
            x = block(x, mask)
            layers.append(x[:, 1:])
        x = self.transformer.norm(x)
        return Features(
            x[:, 0] if "pooled" in want else None, x[:, 1:] if "tokens" in want else None, valid, layers if "layers" in want else None
        )
