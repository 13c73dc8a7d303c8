"""Views of events: what training may see, windows, targets, masks and CL4SRec's operations; the vocabulary is of training events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from untaught.core import Batch, Preprocessor, UserError, View
from untaught.modalities.events import EVENTS
from untaught.modalities.events.items import FILES, FIRST, SPECIAL, items_of, known_counts, learn, plan
from untaught.ops.counter_rng import CounterRNG
from untaught.pipeline.dataset import batch_of

LENGTH = 6
MASK, UNSEEN = SPECIAL["mask"], SPECIAL["unk"]


def records() -> list[dict[str, Any]]:
    """Users with 9, 4, 3, 2 and 1 events; items are letters, in order of frequency of the training events."""
    letters = ["abcdefaby", "abcz", "cax", "da", "a"]
    times = [np.arange(len(own)) + 10.0 * n for n, own in enumerate(letters)]
    return [
        {"item": list(own), "time": time, "user": str(n), "name": f"user {n}"}
        for n, (own, time) in enumerate(zip(letters, times, strict=True))
    ]


def fitted(**knobs: Any) -> tuple[Preprocessor, Batch]:
    settings, files = learn(records(), plan(records(), {"length": LENGTH, **knobs}))
    prep = Preprocessor(EVENTS, settings, files=files)
    batch, _ = batch_of(records(), prep)
    return prep.fitted(batch), batch


def view(name: str, prep: Preprocessor, batch: Batch, epoch: int = 0, **options: Any) -> View:
    rng = CounterRNG(0, epoch, batch["index"], 0)
    return EVENTS.views[name](batch, rng, {**prep.presets()[name], **options}, prep)


def named(prep: Preprocessor, x: Tensor, valid: Tensor) -> list[str]:
    """The letters of each row; _ for the mask, ? for an unseen item."""
    letters = [name if len(name) == 1 else {"[mask]": "_", "[unseen]": "?"}.get(name, "") for name in items_of(prep)]
    return ["".join(letters[number] for number in row[known].tolist()) for row, known in zip(x, valid, strict=True)]


def test_the_vocabulary_is_of_training_events_most_frequent_first() -> None:
    prep, _ = fitted()
    assert items_of(prep)[FIRST:] == ("a", "b", "c", "d", "e", "f")  # not y, z and x, which are held out
    assert prep.settings["single"] == 2
    rare, _ = fitted(fewest=2)
    assert items_of(rare)[FIRST:] == ("a", "b", "c", "d")
    assert rare.settings["rare"] == 2
    every, _ = fitted(hold_out="none")
    assert set(items_of(every)[FIRST:]) == set("abcdefxyz")


def test_held_out_events_are_in_no_training_view() -> None:
    prep, batch = fitted()
    changed = dict(batch)
    changed["ids"] = batch["ids"].clone()
    for row, known in enumerate(batch["known"][:, 0].tolist()):
        changed["ids"][row, known:] = FIRST + 5
    for name in ("light", "global", "global2", "next_tokens", "masked_tokens"):
        for operations in ("crop,mask,reorder", "slice") if "global" in name else ("",):
            own = {"operations": operations} if operations else {}
            for epoch in range(5):
                one, other = (view(name, prep, each, epoch, **own) for each in (batch, changed))
                assert torch.equal(one.x, other.x), name
                assert one.target is None or torch.equal(one.target, other.target)  # type: ignore[arg-type]
    assert not torch.equal(view("whole", prep, batch).x, view("whole", prep, changed).x)


def test_each_event_predicts_the_next_one() -> None:
    prep, batch = fitted(length=3)
    found = view("next_tokens", prep, batch)
    assert found.target is not None
    assert found.target_valid is not None
    assert named(prep, found.x, found.valid) == ["def", "ab", "c", "da", "a"]  # the last known event predicts nothing
    assert named(prep, found.target, found.target_valid) == ["efa", "b", "", "a", ""]
    windows = {named(prep, v.x, v.valid)[0] for v in (view("next_tokens", prep, batch, epoch, window="random") for epoch in range(40))}
    assert windows == {"abc", "bcd", "cde", "def"}


def test_a_share_of_the_items_is_masked() -> None:
    prep, batch = fitted()
    seen = set()
    for epoch in range(30):
        found = view("masked_tokens", prep, batch, epoch, rate=0.34, last=0.0)
        assert found.mask is not None
        assert found.meta is not None
        assert found.mask.sum(1).tolist() == [2, 1, 1, 1, 1]  # of 6, 2, 1, 2 and 1 known events
        assert (found.x[found.mask] == MASK).all()
        assert torch.equal(found.x[~found.mask], found.target[~found.mask])  # type: ignore[index]
        counted = found.mask.gather(1, found.meta["places"])
        assert torch.equal(counted.sum(1), found.mask.sum(1))
        seen |= set(found.mask[0].nonzero().flatten().tolist())
    assert seen == set(range(6))
    last = view("masked_tokens", prep, batch, last=1.0)
    assert named(prep, last.x, last.valid) == ["bcdef_", "a_", "_", "d_", "_"]


def test_the_next_event_is_the_one_after_the_history() -> None:
    prep, batch = fitted()
    for after, histories, targets in (
        ("validation", ["cdefa_", "ab_", "c_", "da_", "a_"], "bca__"),
        ("test", ["defab_", "abc_", "ca_", "da_", "a_"], "???__"),
        ("all", ["efab?_", "abc?_", "ca?_", "da_", "a_"], "_____"),
    ):
        found = view("next_event", prep, batch, after=after)
        assert found.target is not None
        assert found.meta is not None
        assert named(prep, found.x, found.valid) == histories
        assert "".join(named(prep, found.target, torch.ones_like(found.target, dtype=torch.bool))) == targets
        assert (found.x.gather(1, found.meta["at"].unsqueeze(1)) == MASK).all()
    history = view("next_event", prep, batch, after="test").meta["history"]  # type: ignore[index]
    assert named(prep, history, history > 0) == ["abcdefab", "abc", "ca", "da", "a"]


@pytest.mark.parametrize("operation", ["crop", "mask", "reorder", "slice"])
def test_each_operation_does_what_its_paper_says(operation: str) -> None:
    prep, batch = fitted(length=8, hold_out="none")
    whole = "abcdefab"  # the last 8 of abcdefaby begin with b
    whole = named(prep, view("whole", prep, batch).x, view("whole", prep, batch).valid)[0]
    assert whole == "bcdefaby"
    found = set()
    for epoch in range(60):
        made = view("global", prep, batch, epoch, operations=operation)
        found.add(named(prep, made.x, made.valid)[0])
    assert len(found) > 3
    for text in found:
        if operation == "crop":
            assert text in whole
            assert len(text) == 4  # 0.6 of 8, rounded down
        elif operation == "mask":
            assert text.count("_") == 2  # 0.3 of 8
            assert all(a in ("_", b) for a, b in zip(text, whole, strict=True))
        elif operation == "reorder":
            assert sorted(text) == sorted(whole)
            moved = [place for place, (a, b) in enumerate(zip(text, whole, strict=True)) if a != b]
            assert not moved or moved[-1] - moved[0] < 4
        else:
            assert text in "abcdefaby"
            assert 1 <= len(text) <= 7  # 0.2 to 0.8 of 9


def test_one_operation_is_drawn_for_each_user() -> None:
    prep, batch = fitted(length=8, hold_out="none")
    kinds = {"mask": 0, "crop": 0, "reorder": 0}
    for epoch in range(300):
        made = view("global", prep, batch, epoch)
        text = named(prep, made.x, made.valid)[0]
        kinds["mask" if "_" in text else "crop" if len(text) < 8 else "reorder"] += 1
    assert min(kinds.values()) > 70


def test_views_do_not_depend_on_the_padding_of_the_batch() -> None:
    prep, batch = fitted()
    wide = {name: torch.nn.functional.pad(value, (0, 5)) if name not in ("index", "known") else value for name, value in batch.items()}
    for name in EVENTS.views:
        assert torch.equal(view(name, prep, batch).x, view(name, prep, wide).x), name


def test_a_split_in_time_cuts_all_users_at_the_same_two_points() -> None:
    times = np.arange(10.0)
    everyone = [{"item": list("abcdefghij"), "time": times}, {"item": list("abab"), "time": np.array([0.0, 1.0, 8.5, 9.5])}]
    settings, _ = learn(everyone, plan(everyone, {"hold_out": "time"}))
    first, second = settings["cuts"]
    every = np.sort(np.concatenate([one["time"] for one in everyone]))
    assert [first, second] == [every[11], every[12]]
    for one in everyone:
        known = known_counts(one["time"], settings)
        assert known == (int((one["time"] < first).sum()), int((one["time"] < second).sum()))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="hold_out=week: must be last, time, none"):
        plan(records(), {"hold_out": "week"})
    with pytest.raises(UserError, match="hold_out=time needs a time for each event; give --columns time=NAME"):
        plan([{"item": ["a", "b"]}], {"hold_out": "time"})
    with pytest.raises(UserError, match=r"none of the 1 users has 2 training events or more.*or give hold_out=none"):
        learn(records()[2:3], plan(records()[2:3], {}))
    with pytest.raises(UserError, match="have 0 items of 9 events or more; at least 2 are required"):
        fitted(fewest=9)
    with pytest.raises(UserError, match=r"none of the first 1 users can be read: the first \(has no events"):
        plan([{"item": []}], {})
    assert "'shuffle' is not one of crop, mask" in (EVENTS.check({"operations": "crop,shuffle"}) or "")
    assert EVENTS.check({"window": "first"}) == "window=first: must be last or random"
    prep, _ = fitted()
    with pytest.raises(UserError, match=r"items.json is not the one the encoder was trained with"):
        EVENTS.check_files({**prep.settings, "items": "other"}, prep.files)
    with pytest.raises(UserError, match="can't be read as a vocabulary"):
        items_of(replace(prep, files={FILES[0]: b"[1"}))


def test_a_catalogue_beyond_the_limit_says_which_cut_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("untaught.modalities.events.items.MOST", 4)
    with pytest.raises(UserError, match=r"6 items, more than 4; give fewest=2 to leave out items with fewer events \(4 remain\)"):
        fitted()
    prep, _ = fitted(fewest=2)
    assert len(items_of(prep)) == 4 + FIRST


def test_pictures_show_items_by_colour() -> None:
    prep, batch = fitted()
    drawn = EVENTS.render(view("masked_tokens", prep, batch, last=1.0), {}, prep)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (5, 12, 120, 3)
    assert (drawn[0, 3, 5 * 12 + 3] == 0).all()  # the mask
    assert (drawn[4, 3, 3 * 12] == 255).all()  # padding
    assert EVENTS.captions is not None
    assert EVENTS.captions(view("whole", prep, batch), prep)[3] == "d, a"
