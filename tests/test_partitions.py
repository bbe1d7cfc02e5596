"""Which partition a key falls into: Kafka's own hash, one by one and many at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.log import murmur2, partition_of, partitions_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_the_one_kafka_s_own_clients_use(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed % (1 << 32)


@given(keys=st.lists(st.binary(max_size=40) | st.text(max_size=20).map(str.encode)), partitions=st.integers(1, 1024))
def test_many_keys_at_once_fall_where_each_falls_alone(keys: list[bytes], partitions: int) -> None:
    assert partitions_of(keys, partitions).tolist() == [partition_of(key, partitions) for key in keys]
