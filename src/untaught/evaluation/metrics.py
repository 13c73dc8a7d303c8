"""The metrics of evaluation.json: titles, which are shares, and the main one of each probe."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    title: str
    share: bool = False  # in [0, 1], printed in percent


METRICS = {
    "accuracy": Metric("accuracy", True),
    "balanced_accuracy": Metric("balanced accuracy", True),
    "macro_f1": Metric("macro F1", True),
    "calibration_error": Metric("calibration error", True),
    "map": Metric("mAP", True),
    "micro_f1": Metric("micro F1", True),
    "nmi": Metric("NMI"),
    "ari": Metric("ARI"),
    "r2": Metric("R2"),
    "mae": Metric("MAE"),
    "mse": Metric("MSE"),
    "rmse": Metric("RMSE"),
    "spearman": Metric("Spearman"),
    "miou": Metric("mIoU", True),
    "pixel_accuracy": Metric("pixel accuracy", True),
    "j&f": Metric("J&F", True),
    "j": Metric("J", True),
    "f": Metric("F", True),
    "entity_f1": Metric("entity F1", True),
    "entity_precision": Metric("entity precision", True),
    "entity_recall": Metric("entity recall", True),
    "word_accuracy": Metric("word accuracy", True),
    "wer": Metric("word error rate", True),
    "cer": Metric("character error rate", True),
    "blank_share": Metric("blank frames", True),
    "eer": Metric("equal error rate", True),
    "min_dcf": Metric("least detection cost"),
    "rankme": Metric("RankMe"),
    "ndcg@10": Metric("NDCG@10", True),
    "hr@10": Metric("HR@10", True),
}
MAIN = ("accuracy", "map", "r2", "entity_f1", "miou", "word_accuracy", "j&f", "ndcg@10")  # the first that a probe has is its main metric

LEADING = ("linear", "ridge", "frozen", "retrieval", "knn20", "next_item")  # the first probe available gives an encoder's headline score


def metric_of(name: str) -> Metric:
    """For a name not in the table: its words as title, of an error at a horizon (mse@96) those of the error; recall at a rank
    (image_to_text_recall@5) is a share."""
    plain, _, rest = name.partition("@")
    if name not in METRICS and plain in METRICS:
        return Metric(f"{METRICS[plain].title}@{rest}", METRICS[plain].share)
    return METRICS.get(name) or Metric(name.replace("_", " "), "recall@" in name)


def is_main(name: str) -> bool:
    """Whether this can be the main metric of a probe, where one number is shown."""
    return name in MAIN or name.endswith("recall@1")


def place(name: str) -> int:
    """Rank of a main metric within its probe; the lowest is used."""
    return MAIN.index(name) if name in MAIN else len(MAIN)


def shown(name: str, value: float, sign: str = "") -> str:
    """The value as text: a share in percent with one decimal, others with three significant digits."""
    return f"{100 * value:{sign}.1f}%" if metric_of(name).share else f"{value:{sign}.3g}"
