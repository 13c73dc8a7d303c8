"""Synthetic events: visitors of a shop, of four kinds, who look at products in sessions; for a demo and tests without files.

A visitor walks through the pages of topics: from a product mostly to the next one of its series (which is the same for everyone), else to
a popular one of the topic, or to another topic. Visitors of a kind prefer the same topics. Nothing in it was recorded.
"""

from __future__ import annotations

import numpy as np

KINDS = ("cook", "gardener", "reader", "cyclist")
TOPICS, PER_TOPIC = 12, 25  # products are numbered by topic
VISITORS, LEAST, MOST = 1200, 12, 60  # events of a visitor: from LEAST to MOST
NEXT, SAME = 0.55, 0.35  # share of steps to the next product of the series, and to a popular product of the topic


def visits(seed: int = 0) -> dict[str, np.ndarray]:
    """-> visitor, product (text), time (seconds) and kind (text) of each event, in order of time."""
    random = np.random.default_rng(seed)
    series = np.concatenate([topic * PER_TOPIC + random.permutation(PER_TOPIC) for topic in range(TOPICS)])  # an order within each topic
    follows = np.empty(TOPICS * PER_TOPIC, np.int64)
    follows[series] = np.roll(series.reshape(TOPICS, PER_TOPIC), -1, axis=1).reshape(-1)
    popular = 1 / np.arange(1, PER_TOPIC + 1) ** 0.8
    popular /= popular.sum()
    tastes = random.dirichlet(np.full(TOPICS, 0.3), len(KINDS))
    rows: list[tuple[int, int, float, int]] = []
    for visitor in range(VISITORS):
        kind = visitor % len(KINDS)
        taste = 0.85 * tastes[kind] + 0.15 / TOPICS
        time = random.uniform(0, 60 * 86400)
        topic = random.choice(TOPICS, p=taste)
        product = topic * PER_TOPIC + random.choice(PER_TOPIC, p=popular)
        seen = set()
        for _ in range(random.integers(LEAST, MOST + 1)):
            step = random.uniform()
            if step > NEXT + SAME:
                topic = random.choice(TOPICS, p=taste)
            product = follows[product] if step < NEXT else topic * PER_TOPIC + random.choice(PER_TOPIC, p=popular)
            if product in seen:  # a product is looked at once
                continue
            seen.add(product)
            topic = product // PER_TOPIC
            rows.append((visitor, product, time, kind))
            time += random.exponential(60 if random.uniform() < 0.9 else 86400)
    rows.sort(key=lambda row: row[2])
    visitor, product, time, kind = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "user": np.char.add("v", visitor.astype(str)),
        "item": np.char.add("p", product.astype(str)),
        "time": time,
        "label": np.array(KINDS)[kind],
    }
