"""Documents and files that were right once, changed at random: what a fuzzer feeds to the doors of the program."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
THOROUGH = settings(QUICK, max_examples=1500)

_DEEP: Any = []
for _ in range(50):
    _DEEP = [_DEEP]
STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 10**6, 10**12, 10**400, -(2**63),
    0.5, 1e-300, 1e308, math.nan, math.inf, -math.inf,
    "", "x", "3", "..", "../../outside", "/outside", "a/b", "a\\b", "nul\x00byte", "x" * 5000, "\ud800", "ü",
    "os.system", "os:system", "evil.py:Evil", "torch.nn.Linear", "torch.nn.Transformer", "default", "2d", "3d_fullres",
    [], [[]], [0], [1, 2, 3], [-1, 0, 1], [1] * 300, [10**9] * 3, ["a"], [None], {}, {"": None}, {"name": 3},
    {"preset": "../../x"}, {"a": {"b": [1]}}, _DEEP,
)  # fmt: skip


def changed_json(document: Any, seed: int, most: int = 3) -> Any:
    """A copy with one to `most` changes: a value replaced, removed, added, moved, repeated or wrapped."""
    chance = random.Random(seed)
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, most))):
        document = _changed_once(document, chance)
    return document


def _changed_once(document: Any, chance: random.Random) -> Any:
    places = list(_places(document))
    if not places or chance.random() < 0.01:
        return chance.choice(STRANGE)
    holder, key = chance.choice(places)
    action = chance.randrange(7)
    if action <= 2:
        holder[key] = copy.deepcopy(chance.choice(STRANGE))
    elif action == 3:
        del holder[key]
    elif action == 4:
        other, other_key = chance.choice(places)
        holder[key] = copy.deepcopy(other[other_key])
    elif action == 5 and isinstance(holder, dict):
        name = chance.choice([entry for entry in STRANGE if isinstance(entry, str)])
        holder[name] = holder.pop(key) if chance.random() < 0.5 else copy.deepcopy(chance.choice(STRANGE))
    elif isinstance(holder, list):
        holder.append(copy.deepcopy(chance.choice(STRANGE)))
    else:
        holder[key] = [holder[key]]
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in list(entries):
        yield value, key
        yield from _places(entry)


def as_json(value: Any) -> bytes:
    """Also what only Python writes and reads: NaN, lone surrogates."""
    return json.dumps(value).encode("utf-8")


_WORDS = (b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f")  # the last: NaN


def changed_bytes(content: bytes, seed: int, header: int = 0) -> bytes:
    """A copy with some bytes changed, cut off, put in or repeated; most of them among the first `header`."""
    chance = random.Random(seed)
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        end = min(header, len(changed)) if header and chance.random() < 0.8 else len(changed)
        place = chance.randrange(end)
        action = chance.randrange(10)
        if action <= 3:
            changed[place] = chance.randrange(256)
        elif action == 4:
            changed[place] ^= 1 << chance.randrange(8)
        elif action <= 6:
            word = chance.choice(
                (b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f")
            )
            changed[place : place + 4] = word
        elif action == 7:
            del changed[place:]
        elif action == 8:
            changed[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 9)))
        else:
            changed[place : place + 8] = changed[place // 2 : place // 2 + 8]
    return bytes(changed)
