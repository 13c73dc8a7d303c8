"""Forecasting of the next patches. Das, Kong, Sen, Zhou, ICML 2024 (TimesFM). https://arxiv.org/abs/2310.10688

Views:  one crop, normalised by the mean and standard deviation of its first time steps (reversible normalisation that sees nothing of
        what is forecast).
Heads:  a residual block from each token to the `ahead` patches behind it: a linear layer, SiLU and a second one, beside a linear
        shortcut. The paper's output patch is four times as long as its input patch (128 and 32 time steps).
Loss:   the mean squared error of the patches behind each token, averaged over tokens; values that are missing or beyond the end are left
        out.
The encoder is causal: a token sees its own patch and those before. It is exported as trained, with its outputs averaged over the tokens.
Differs from the paper: patches are embedded by the encoder (the paper: a residual block), the beginning of the first patch is not masked
at random, and there is no embedding of the frequency.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.reconstruction import next_tokens_error
from untaught.ranges import Few, in_range


class Forecasting(Method):
    views = ("continued",)
    needs = frozenset({"tokens", "causal"})
    answers = "forecasts"

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        ahead: Few = 4,  # patches that each token forecasts
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        assert example.target is not None
        tokens, width = example.target.shape[1:]
        if tokens < 2:
            raise UserError("forecasting predicts the next patch, but a view is a single one; choose longer series or a smaller patch")
        self.encoder, self.ahead = encoder, min(ahead, tokens - 1)
        self.hidden, self.out = nn.Linear(encoder.width, encoder.width), nn.Linear(encoder.width, self.ahead * width)
        self.shortcut = nn.Linear(encoder.width, self.ahead * width)

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        return {"squared_error": next_tokens_error(self.forecast(view), view.target, view.target_valid)}

    def forecast(self, view: View) -> Tensor:
        """-> (B,N,ahead,P): for each token, the values of the tokens behind it, as normalised."""
        tokens, valid = self.encoder.embed(view)
        tokens = self.encoder.context(tokens, valid, causal=True).tokens
        assert tokens is not None
        return (self.out(F.silu(self.hidden(tokens))) + self.shortcut(tokens)).unflatten(2, (self.ahead, -1))

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> every token as forecast from those before it, in the units of the target (B,N,P); the first one as it is."""
        (view,) = views
        assert view.target is not None
        return torch.cat([view.target[:, :1], self.forecast(view)[:, :-1, 0].float()], 1)
