"""Event sequences: the items of each user (products, films, log entries) in order of time.

A view is x (B,T) int64, numbers of items of a vocabulary that is learned on training events, and valid (B,T), False for padding, on the
right. Methods of language models (clm, mlm, replaced_token) read items as they read words.
"""

from __future__ import annotations

from typing import Annotated, Literal

from untaught.core import Modality, Options, Preprocessor, UserError
from untaught.modalities.events.augment import augmented, captions, check, light, masked_tokens, next_event, next_tokens, presets, whole
from untaught.modalities.events.items import COUNTS, FILES, LENGTHS, check_files, decode, fit, learn, plan, raw
from untaught.modalities.events.strips import render


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    return "bert4rec" if "bidirectional" in needs else "sasrec"


def encoder_arguments(settings: Options) -> Options:
    return {"vocabulary": settings["vocabulary"], "length": settings["length"], "special": settings["special"]}


def export(prep: Preprocessor) -> Options:
    if other := [key for key in fit({}, prep) if prep.statistics.get(key) != prep.settings[key]]:
        raise UserError(f"{other[0]} differs between the statistics and the settings; copy the whole folder again")
    return {"vocabulary": FILES[0], "length": prep.settings["length"]}


def remarks(views: tuple[str, ...], settings: Options) -> list[str]:
    """What is held out, and what nothing can be learned from."""
    how = {"last": "each user's last two events", "time": "events after the first 80% in time", "none": "no events"}
    found = [f"{how[settings['hold_out']]} are held out; none of them is in a training view"] if settings["hold_out"] != "none" else []
    if rare := settings["rare"]:
        found.append(f"{rare:,} item{'s' * (rare != 1)} with fewer than {settings['fewest']} events read as unseen")
    if single := settings["single"]:
        found.append(f"{single:,} {'users have' if single != 1 else 'user has'} fewer than 2 training events: no next item to learn from")
    return found


EVENTS = Modality(
    name="events",
    noun="users",
    fields={
        "item": (
            *("item_id", "itemid", "items", "movie_id", "movieid", "movie", "product_id", "productid", "product", "sku", "asin"),
            *("parent_asin", "track_id", "song_id", "article_id", "business_id", "event_type", "event", "action"),
        ),
        "user": ("user_id", "userid", "uid", "customer_id", "customerid", "customer", "visitor_id", "visitorid", "session_id", "sessionid"),
    },
    extras={"time": ("timestamp", "ts", "datetime", "date", "event_time", "created_at", "unix_timestamp")},
    grouped="user",
    plan=plan,
    decode=decode,
    fit=fit,
    presets=presets,
    check=check,
    views={
        "whole": whole,
        "light": light,
        **dict.fromkeys(("global", "global2"), augmented),
        "next_tokens": next_tokens,
        "masked_tokens": masked_tokens,
        "next_event": next_event,
    },
    raw=raw,
    render=render,
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    export=export,
    kind=lambda settings: settings["items"],
    remarks=remarks,
    method="clm",
    batch=128,
    knobs={"length": Annotated[int, LENGTHS], "hold_out": Literal["last", "time", "none"], "fewest": Annotated[int, COUNTS]},
    learn=learn,
    files=FILES,
    check_files=check_files,
    captions=captions,
)
