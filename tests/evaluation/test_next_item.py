"""Full ranking and the classical recommenders against plain loops; EASE against a direct solve; what is ranked, filtered and left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import untaught as ut
from untaught.core import UserError
from untaught.encoders.event_transformer import bert4rec, sasrec
from untaught.evaluation import recommenders
from untaught.evaluation.next_item import NextItem, can_rank
from untaught.evaluation.ranking import gains, measured, places, ranking_rows
from untaught.evaluation.recommenders import EASE, ItemNeighbours, popularity, recent_popularity
from untaught.modalities.events import EVENTS
from untaught.pipeline.dataset import Dataset, open_dataset

KNOBS: dict[str, Any] = {"batch_size": 16, "precision": "float32", "encoder__width": 16, "encoder__depth": 1, "length": 8, "seed": 1}


def by_loops(scores: np.ndarray, target: np.ndarray, excluded: np.ndarray) -> tuple[float, float]:
    hits, gain = [], []
    for own, item, out in zip(scores, target, excluded, strict=True):
        ranked = sorted((other for other in range(len(own)) if not out[other]), key=lambda other: (-own[other], other == item))
        place = ranked.index(item)
        hits.append(place < 10)
        gain.append(1 / math.log2(place + 2) if place < 10 else 0.0)
    return float(np.mean(gain)), float(np.mean(hits))


@pytest.mark.parametrize("seed", range(3))
def test_the_metrics_are_those_of_loops_over_all_items(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 12, (50, 40)).astype(np.float32)  # with many ties
    target, excluded = random.integers(0, 40, 50), random.uniform(size=(50, 40)) < 0.3
    excluded[np.arange(50), target] = False
    found = {name: one.mean for name, one in measured(gains(places(scores, target, excluded))).items()}
    ndcg, hit = by_loops(scores, target, excluded)
    assert found == pytest.approx({"ndcg@10": ndcg, "hr@10": hit})


def test_a_target_that_is_not_ranked_is_missed_and_no_variance_has_an_interval() -> None:
    place = places(np.ones((2, 20), np.float32), np.array([3, 4]), np.eye(20, dtype=bool)[[3, 9]])
    assert place.tolist() == [20, 18]  # excluded; and behind all that tie with it
    few = places(np.zeros((1, 4), np.float32), np.array([1]), np.ones((1, 4), bool))
    assert not gains(few).any()  # missed, though there are fewer than ten items
    rows = ranking_rows(measured(gains(np.zeros(30, int))), 30)
    assert [(row["metric"], row["mean"]) for row in rows] == [("ndcg@10", 1.0), ("hr@10", 1.0)]
    assert all(0.8 < row["low"] < 1 for row in rows)


@pytest.mark.parametrize(("users", "items"), [(12, 30), (40, 15)])
@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_ease_is_the_closed_form(users: int, items: int, penalty: float) -> None:
    random = np.random.default_rng(0)
    x = (random.uniform(size=(users, items)) < 0.3).astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + penalty * np.eye(items))
    weights = np.zeros((items, items))
    for i in range(items):  # equation 8
        for j in range(items):
            weights[i, j] = 0.0 if i == j else -inverse[i, j] / inverse[j, j]
    history = (random.uniform(size=(5, items)) < 0.3).astype(np.float64)
    expected = history @ weights
    found = EASE(sparse.csr_matrix(x)).scores(penalty)(sparse.csr_matrix(history))
    unseen = history == 0
    assert found[unseen] == pytest.approx(expected[unseen], rel=1e-4, abs=1e-6)
    assert np.abs(weights).sum() > 0.1


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_item_neighbours_are_those_of_loops(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("untaught.evaluation.recommenders.CHUNK", chunk)
    random = np.random.default_rng(0)
    x = (random.uniform(size=(40, 12)) < np.linspace(0.1, 0.6, 12)).astype(np.float32)
    history = (random.uniform(size=(4, 12)) < 0.4).astype(np.float32)
    expected = np.zeros((4, 12))
    for item in range(12):
        near = {}
        for other in range(12):
            if other != item:
                near[other] = float(x[:, item] @ x[:, other] / np.linalg.norm(x[:, item]) / np.linalg.norm(x[:, other]))
        best = sorted(near, key=lambda other: -near[other])[:3]
        expected[:, item] = sum(history[:, other] * near[other] for other in best)
    assert ItemNeighbours(sparse.csr_matrix(x)).scores(3)(sparse.csr_matrix(history)) == pytest.approx(expected, abs=1e-5)


def test_popularity_counts_and_recent_popularity_counts_the_latest() -> None:
    items, times = np.array([0, 1, 1, 2, 2, 2]), np.array([5.0, 6.0, 4.0, 1.0, 2.0, 3.0])
    history = sparse.csr_matrix((2, 3))
    assert popularity(np.bincount(items))(history).tolist() == [[1, 2, 3]] * 2
    assert recent_popularity(items, times, 0.5, 3)(history).tolist() == [[1, 2, 0]] * 2


def circles(users: int = 60, items: int = 30, repeated: bool = False) -> pd.DataFrame:
    """Users who go around a circle of items; one has 2 events, and if `repeated` one's last item is an earlier one."""
    rows = []
    for user in range(users):
        for step in range(2 if user == 1 else 8):
            rows.append((f"u{user}", f"i{(user * 7 + step) % items}", 100.0 * user + step))
    if repeated:
        rows.append(("u0", "i0", 50.0))
    return pd.DataFrame(rows, columns=["user", "item", "time"])


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def opened(frame: pd.DataFrame, **overrides: Any) -> Dataset:
    data = open_dataset(frame, EVENTS, columns=None, label=None, split=None, overrides={"length": 8, **overrides})
    data.open(False, 0)
    return data


def ranker(frame: pd.DataFrame, make: Any = sasrec, **overrides: Any) -> tuple[NextItem, Any]:
    data = opened(frame, **overrides)
    torch.manual_seed(0)
    encoder = make(**data.prep.encoder_arguments, width=16, depth=1, heads=2).eval()
    return NextItem(data, encoder, torch.device("cpu"), False, 0), encoder


def test_users_without_a_held_out_event_or_with_a_repeated_item_are_left_out_and_counted() -> None:
    found, _ = ranker(circles(repeated=True))
    assert found.possible
    assert len(found.of("test").rows) == 58
    lost = {"without a held-out event or a history": 1, "whose item they had before": 1}
    assert found.left_out["test"] == lost
    assert "no user has a held-out event" in ranker(circles(), hold_out="none")[0].why_not
    assert "60 without a held-out event or a history" in ranker(circles(), hold_out="time")[0].why_not  # one user is over before the next
    together = circles().assign(time=lambda frame: frame.groupby("user").cumcount())
    by_time, _ = ranker(together, hold_out="time")
    assert len(by_time.of("test").rows) == 59


def test_what_takes_too_long_on_a_large_catalogue_is_skipped_and_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found, _ = ranker(circles())
    monkeypatch.setattr(recommenders, "COMPARED", 5)
    monkeypatch.setattr(recommenders, "NUMBERS", 5)
    rows, _ = found.baselines()
    assert {row["features"] for row in rows} == {"popularity", "recent_popularity"}
    said = capsys.readouterr().err
    assert "skipping  item-kNN: to compare" in said
    assert "skipping  EASE" in said


@pytest.mark.parametrize("make", [sasrec, bert4rec])
def test_the_encoder_is_ranked_as_in_loops(make: Any) -> None:
    found, encoder = ranker(circles(), make)
    rows, scores = found.measure("encoder", encoder)
    asked, store, prep = found.of("test"), found.dataset.store, found.dataset.prep
    assert store is not None
    gain, hits = [], []
    for row in asked.rows:
        ids = torch.from_numpy(store.gather(np.array([row]))["ids"][0].astype(np.int64))
        history, target = ids[:-1], int(ids[-1])
        with torch.no_grad():
            x = history[-7:] if make is sasrec else torch.cat([history[-7:], torch.tensor([prep.statistics["special"]["mask"]])])
            last = encoder.features(ut.View(x[None]), want=("tokens",)).tokens[0, -1]
            score = (encoder.items.weight @ last).numpy()
        excluded = np.zeros(len(score), bool)
        excluded[:3] = True
        excluded[history.numpy()] = True
        one, hit = by_loops(score[None], np.array([target]), excluded[None])
        gain.append(one)
        hits.append(hit)
    assert scores["ndcg@10"].mean == pytest.approx(np.mean(gain), abs=1e-6)
    assert scores["hr@10"].mean == pytest.approx(np.mean(hits), abs=1e-6)
    assert {row["features"] for row in rows} == {"encoder"}
    assert can_rank(encoder)


def test_a_run_ranks_predicts_and_embeds(tmp_path: Path) -> None:
    frame = circles()
    run = ut.pretrain(frame, out=tmp_path / "run", modality="events", steps=60, lr=0.02, **KNOBS)
    score = {(row["features"], row["metric"]): row["mean"] for row in run.scores if row["probe"] == "next_item"}
    assert {features for features, _ in score} == {"encoder", "random_init", "popularity", "recent_popularity", "item_knn", "ease"}
    assert score["encoder", "hr@10"] > 0.9 > score["random_init", "hr@10"]  # around a circle, the next item is certain
    assert score["encoder", "ndcg@10"] > score["popularity", "ndcg@10"]
    again = {(row["features"], row["metric"]): row["mean"] for row in run.evaluate(frame) if row["probe"] == "next_item"}
    assert again == pytest.approx(score)

    table: Any = ut.predict(run, frame.assign(user=frame["user"].str.upper()))
    assert list(table.columns) == ["row", "name", "rank", "item", "probability"]
    own = table[table["name"] == "U0"]
    assert own["rank"].tolist() == list(range(1, 11))
    assert own["item"].iloc[0] == "i8"
    assert not set(own["item"]) & {f"i{n}" for n in range(8)}  # what the user has had
    assert own["probability"].is_monotonic_decreasing
    assert own["probability"].sum() <= 1 + 1e-5
    new = pd.DataFrame({"user": ["x", "x", "y"], "item": ["i3", "i4", "never seen"], "time": [1, 2, 1]})
    assert ut.predict(run.path, new, tmp_path / "next.csv") == tmp_path / "next.csv"
    assert len((tmp_path / "next.csv").read_text().splitlines()) == 21

    users, items = run.embed(new), run.embed(items=True)
    assert users.shape == (2, 16)
    assert users.names == ["x", "y"]
    assert items.shape == (30, 16)
    assert set(items.names or ()) == {f"i{n}" for n in range(30)}
    with pytest.raises(UserError, match="no data given; pass some, or items"):
        run.embed()
    with pytest.raises(UserError, match="need no data"):
        run.embed(new, items=True)


def test_a_method_that_learns_no_scores_predicts_no_items(tmp_path: Path) -> None:
    run = ut.pretrain(circles(), "simclr", out=tmp_path / "run", modality="events", steps=2, **KNOBS)
    with pytest.raises(UserError, match=r"was trained by simclr, which learns no scores of items; combine it .* clm\+simclr:0.1"):
        ut.predict(run, circles())


def test_labels_of_users_take_no_events_from_the_recommenders(tmp_path: Path) -> None:
    frame = circles()
    knobs: dict[str, Any] = {"steps": 2, "batch_size": 8, "precision": "float32", "length": 8, "encoder__width": 8, "encoder__heads": 2}
    run = ut.pretrain(frame, out=tmp_path / "run", modality="events", **knobs)
    labelled = frame.assign(kind=frame["user"].map(lambda user: "ab"[int(str(user).strip("u")) % 2]))
    plain, beside = (
        {(row["features"], row["metric"]): row["mean"] for row in found if row["probe"] == "next_item"}
        for found in (ut.evaluate(run, frame), ut.evaluate(run, labelled, label="kind"))
    )
    assert plain["ease", "ndcg@10"] > 0.5
    assert beside == plain


def test_methods_are_compared_by_the_validation_event(tmp_path: Path) -> None:
    found = ut.compare(circles(), ["clm", "simclr"], steps=120, out=tmp_path / "out", modality="events", **KNOBS).result
    assert "the validation event of 59 users" in found["scored_on"]  # one has too few events
    assert found["winner"] == "clm"
    for one in (*found["baselines"].values(), *found["rounds"][-1]["results"].values()):
        assert (one["probe"], one["metric"]) == ("next_item", "ndcg@10")
    classical = {"popularity", "recent_popularity", "item_knn", "ease"}
    assert set(found["baselines"]) > classical
    assert {row["features"] for row in found["test"]} == {"encoder", "random_init", *classical}
    told = {row["features"]: row["mean"] for row in found["test"] if row["metric"] == "ndcg@10"}
    assert told["encoder"] > 2 * told["random_init"]
    rows = {(row["features"], row["metric"]): row["mean"] for row in ut.evaluate(tmp_path / "out" / "clm", circles())}
    assert rows["encoder", "ndcg@10"] == pytest.approx(told["encoder"])
