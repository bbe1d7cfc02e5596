"""Why an item scores as it does: the score is a sum over the timeline, and these are its terms.

    s(u, i) = b_i + sum_t (w_t / W) <e[i_t], v_i>,    W = sum_t w_t

Everything is in float64 and from the timeline itself, as `led.encoder.encode` defines it: the running sums of a record
are rounded, and terms that are exact would not add up to a score made from those.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from led.encoder import F32, F64, Encoder, Events, weighed


def shares(encoder: Encoder, timeline: Events) -> F64:
    """What part of one user's vector each event is, (n,): 0 where it does not count, 1 in all; only 0 where none does.

    timeline: as of `Events`, all of user 0.
    """
    places = np.arange(len(timeline.rows))
    counting, weights = weighed(encoder, replace(timeline, users=np.zeros(len(places), np.int64)))
    counts = (timeline.rows >= 0) & (encoder.kind_weight(timeline.kinds) > 0)
    found = np.zeros(len(places))
    if len(counting.rows):
        found[counts] = weights / weights.sum()
    return found


def inputs_of(embeddings: F32, timeline: Events) -> F64:
    """Input embedding of each event, (n, dim), 0 for an item the release does not know."""
    found = embeddings[np.maximum(timeline.rows, 0)].astype(np.float64)
    found[timeline.rows < 0] = 0
    return found


def terms(parts: F64, inputs: F64, outputs: F32) -> F64:
    """What each event (n,) adds to the score of each item (k,), (k, n). parts: `shares`. outputs: (k, dim)."""
    return np.asarray((outputs.astype(np.float64) @ inputs.T) * parts)
