"""What there is: methods and encoders with their knobs, read from their own headers and signatures."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from untaught.core import UserError
from untaught.encoders import ENCODERS
from untaught.engine.build import OURS, encoder_factory, method_named, method_table
from untaught.engine.log import warn
from untaught.engine.recipe import knobs_of

INPUT = {"channels", "size", "vocabulary", "length", "special"}  # what an encoder is told of the data


def method_cards(name: str | None = None) -> list[dict[str, Any]]:
    """A card a method: name, family, package, views, needs, paper; of one method also its header and knobs.

    A package whose method can't be used is warned of, and left out.
    """
    cards, table = [], method_table()
    for method in [name] if name else sorted(table):
        try:
            cls = method_named(method, table)
        except UserError as error:
            if name:
                raise
            warn(str(error))
            continue
        package = table[method][1]
        header = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
        card: dict[str, Any] = {
            "name": method,
            "family": cls.__module__.split(".")[-2] if package == OURS else "-",
            "package": package,
            "views": ", ".join(cls.views),
            "needs": ", ".join(sorted(cls.needs)) or "any encoder",
            "paper": " ".join(re.findall(r"https?://\S+", header.split("\n\n")[0])),
        }
        if name:
            card |= {
                "knobs": {
                    key: "decided from encoder and data" if default is None else default for key, (_, default) in knobs_of(cls).items()
                }
            }
            card |= {"header": "\n" + header}
        cards.append(card)
    return cards


def encoder_cards(name: str | None = None) -> list[dict[str, Any]]:
    """A card an encoder: name and what it is; of one also its knobs."""
    if name is None:
        return [{"name": encoder, "what": what} for encoder, (_, what) in ENCODERS.items()]
    factory, _ = encoder_factory(name)
    known = {key: default for key, (_, default) in knobs_of(factory).items() if key not in INPUT}
    what = ENCODERS[name if name in ENCODERS else f"{name.split('/')[0]}/NAME"][1]
    return [{"name": name, "what": what, "knobs": {f"encoder.{key}": default for key, default in known.items()}}]
