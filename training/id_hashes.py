"""64-bit numbers of ids, a column at a time: to count and to part users by, where their ids would take too much memory.

Of a hundred million users two share a number once in four thousand archives; they are then trained on as one, which
nobody but the trainer meets. The numbers are the same in every process and on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from led.encoder import I64

U64 = npt.NDArray[np.uint64]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(9)], np.uint64)


def id_hashes(ids: Any) -> U64:
    """A number for each of a column (an Arrow ChunkedArray) of strings, dictionary-encoded or not, (n,); 0 for null."""
    return np.concatenate([np.empty(0, np.uint64), *map(_of_chunk, ids.chunks)])


def _of_chunk(chunk: Any) -> U64:
    if isinstance(chunk, pa.DictionaryArray):
        known = np.append(_of_chunk(chunk.dictionary), np.uint64(0))
        codes = chunk.indices.fill_null(len(chunk.dictionary)).to_numpy(zero_copy_only=False)
        return np.asarray(known[codes])
    strings = chunk.cast(pa.large_string())
    if not len(strings):
        return np.empty(0, np.uint64)
    _, offsets, data = strings.buffers()
    ends = np.frombuffer(memoryview(offsets), np.int64)[strings.offset : strings.offset + len(strings) + 1]
    text = np.frombuffer(memoryview(data), np.uint8) if data else np.empty(0, np.uint8)
    hashes = _mixed(np.append(text[: ends[-1]], np.zeros(8, np.uint8)), ends[:-1], np.diff(ends))
    hashes[strings.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def _mixed(text: npt.NDArray[np.uint8], starts: I64, lengths: I64) -> U64:
    """Eight bytes of every string at a time, of those that have so many; text ends with eight bytes of no string."""
    words = np.lib.stride_tricks.sliding_window_view(text, 8)
    hashes = (lengths.astype(np.uint64) + np.uint64(1)) * _ODD
    for done in range(0, int(lengths.max(initial=0)), 8):
        rows = np.flatnonzero(lengths > done)
        word = words[starts[rows] + done].view(np.uint64)[:, 0] & _MASKS[np.minimum(lengths[rows] - done, 8)]
        mixed = (hashes[rows] ^ word) * _ODD
        hashes[rows] = (mixed ^ (mixed >> _SHIFT)) * _ODD
    hashes ^= hashes >> np.uint64(32)
    return np.asarray(np.maximum(hashes, np.uint64(1)))
