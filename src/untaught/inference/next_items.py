"""The next items of users, by an encoder that ranks items: those with the highest scores after all of a user's events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from untaught.config.registry import from_python, method_class, modality_named, modality_table
from untaught.core import Options, UserError, View
from untaught.evaluation.features import check_finite
from untaught.evaluation.next_item import VIEW, can_rank, item_scores
from untaught.inference.embed import Embedder, Reading
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.pretrained import Pretrained, encoder_folder, load_encoder
from untaught.pipeline.view_pipeline import used_view
from untaught.ranges import Few, in_range
from untaught.storage.safe_load import read_json

if TYPE_CHECKING:
    import pyarrow

BEST = 10  # items for each user


def offers_next_items(run: Path) -> bool:
    """Whether the encoder of a run folder, or of its encoder/, ranks items. Raises UserError if its method did not learn to."""
    folder = encoder_folder(run)
    config = read_json(folder / "config.json", run) if (folder / "config.json").exists() else None
    if not isinstance(config, dict) or config.get("modality") not in modality_table() or "roles" in config:
        return False
    if VIEW not in modality_named(config["modality"]).views:
        return False
    method = str(config.get("method"))
    if not from_python(method) and "words" not in frozenset().union(*(role.needs for role in method_class(method).roles().values())):
        raise UserError(
            f"{run} was trained by {method}, which learns no scores of items; combine it with one that does, as clm+{method}:0.1"
        )
    return can_rank(load_encoder(run).network)


class NextItems(Embedder):
    """Reads new data with the model's preprocessing and yields, for each user, the `best` items that the history does not have."""

    @in_range
    def __init__(
        self, model: Pretrained, data: Any, columns: dict[str, str] | None = None, batch_size: int = 256, best: Few = BEST
    ) -> None:
        super().__init__(model, data, columns, batch_size, "predict")
        special: Options = self.prep.statistics["special"]
        self.special = torch.tensor([number for number in special.values() if number is not None])
        self.view = used_view(self.prep, VIEW)
        self.best = min(best, int(self.prep.statistics["vocabulary"]) - len(self.special))

    def _encoded(self, reading: Reading) -> Iterator[tuple[np.ndarray, Any]]:
        """Yields (index (B,), (items (B,K), probabilities (B,K))); a probability of 0 marks an item that the history has already."""
        encoder = self.encoder.eval()
        for batch in reading.batches:
            view = self.view(batch, 0)[0]
            assert view.meta is not None
            scores, index = item_scores(encoder, view, self.device, has_bfloat16(self.device.type)), batch["index"].numpy()
            check_finite(index, scores.numpy(), reading.names)
            scores[:, self.special] = -torch.inf
            scores.scatter_(1, view.meta["history"], -torch.inf)
            likely, items = scores.softmax(1).topk(self.best)
            yield index, (items, likely)

    def tables(self) -> Iterator[pyarrow.Table]:
        """row and name of the user, rank from 1, item and probability (among items that the user has not had), one table per batch."""
        import pyarrow as pa

        captions = self.modality.captions
        assert captions is not None
        for rows, names, (items, likely) in self:
            kept = (likely > 0).numpy().ravel()  # a user who has had nearly all items has fewer left
            each = captions(View(items.reshape(-1, 1)), self.prep)
            columns = {
                "row": np.repeat(rows, self.best),
                "name": np.repeat(np.array(names, object), self.best),
                "rank": np.tile(np.arange(1, self.best + 1), len(rows)),
                "item": np.array(each, object),
                "probability": likely.numpy().ravel(),
            }
            yield pa.table({name: values[kept] for name, values in columns.items()})
