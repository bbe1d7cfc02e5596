"""The catalogue's consumer and the counts of events: each record takes effect once, in order, on every log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from consumers.catalogue import GROUP, CatalogueConsumer
from consumers.popularity import Counting
from store.catalogue import Catalogue, Overwritten, Row
from store.connection import Client, StoreUnavailable, connect
from store.popularity import DAYS, HOUR_MS, HOURS, Popularity
from stream.confluent_log import ConfluentLog
from stream.decoding import EventColumns
from stream.events import Event, erasure, item_key
from stream.items import ItemsDecoder
from stream.kafka_log import KafkaLog
from stream.log import Entry, Log
from stream.loop import Loop
from stream.memory_log import MemoryLog
from stream.redis_log import RedisLog
from stream.topics import DEAD_LETTERS, ITEMS, topics

NOW_MS = 1_790_000_000_000
HOUR = NOW_MS // HOUR_MS


@pytest.fixture(
    params=[
        *("memory", "valkey"),
        pytest.param("kafka", marks=pytest.mark.kafka),
        pytest.param("confluent", marks=pytest.mark.kafka),
    ]
)
def log(request: pytest.FixtureRequest, namespace: str) -> Iterator[Log]:
    made: Log
    if request.param == "memory":
        made = MemoryLog()
    elif request.param == "valkey":
        made = RedisLog(connect(request.getfixturevalue("redis_address")), namespace)
    else:
        kind = KafkaLog if request.param == "kafka" else ConfluentLog
        made = kind([request.getfixturevalue("kafka_bootstrap")], namespace)
    for topic, partitions in topics(2).items():
        made.create_topic(topic, partitions)
    yield made
    made.close()


@pytest.fixture
def catalogue(redis_client: Client, namespace: str) -> Catalogue:
    return Catalogue(redis_client, namespace)


def say(log: Log, *said: tuple[str, str]) -> None:
    """Records of the topic: ids and values."""
    log.append(ITEMS, [Entry(item.encode(), value.encode(), NOW_MS) for item, value in said])


def consume(log: Log, catalogue: Catalogue, *, group: str = GROUP, until: Callable[[], bool] | None = None) -> None:
    """Run the consumer until nothing is left to read."""
    stop, deadline = threading.Event(), time.monotonic() + 20
    source = f"{log.identity(ITEMS):016x}:0"
    end = log.end_offsets(ITEMS)[0]

    def tick(_: object) -> None:
        assert time.monotonic() < deadline
        if (until or (lambda: catalogue.position(source) == end))():
            stop.set()

    handler = CatalogueConsumer(catalogue, log.identity(ITEMS))
    Loop(log, ITEMS, group, handler, decoder=ItemsDecoder(), poll_timeout_s=0.1, on_tick=tick).run(stop)


def test_the_last_record_of_an_item_counts_whoever_reads_them_again(log: Log, catalogue: Catalogue) -> None:
    say(log, ("hat", '{"title":"old"}'), ("belt", "{}"), ("hat", '{"title":"new","stock":0}'), ("belt", ""))
    say(log, ("?", "no item"), ("scarf", '{"stock":1}'))
    consume(log, catalogue)
    known = [None if fields is None else fields.decode() for fields in catalogue.read(["hat", "belt", "scarf"])]
    assert known == ['{"title":"new","stock":0}', None, '{"stock":1}']
    withheld = catalogue.changed(None)
    assert withheld.withheld == {item_key("hat"): True, item_key("belt"): True}
    assert len(log.read(DEAD_LETTERS, 0, 0, 10)) == 1
    say(log, ("hat", '{"title":"again"}'))
    consume(log, catalogue)
    assert catalogue.changed(withheld).withheld == {item_key("hat"): False}
    assert catalogue.count() == 2
    if not isinstance(log, MemoryLog):
        return
    consume(log, catalogue, group="other")  # from the beginning, by its offsets: the store knows better
    assert catalogue.changed(withheld).changes == withheld.changes + 1


def test_a_store_that_was_flushed_is_filled_again_from_the_log(
    log: Log, catalogue: Catalogue, redis_client: Client, namespace: str
) -> None:
    say(log, *((f"item-{number}", f'{{"stock":{number % 2}}}') for number in range(250)))
    consume(log, catalogue)
    before = catalogue.changed(None)
    redis_client.delete(*(f"{namespace}:items{part}" for part in ("", ":withheld", ":state")))
    assert catalogue.count() == 0
    consume(log, catalogue)
    after = catalogue.changed(before)
    assert (catalogue.count(), after.withheld, after.epoch != before.epoch) == (250, before.withheld, True)


@pytest.mark.kafka
@pytest.mark.parametrize("kind", [KafkaLog, ConfluentLog])
def test_kafka_keeps_the_last_record_of_an_item_and_a_deletion_is_its_null(
    kind: type[KafkaLog | ConfluentLog], kafka_bootstrap: str, namespace: str
) -> None:
    from kafka import KafkaConsumer
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    log, name = kind([kafka_bootstrap], namespace), f"{namespace}.{ITEMS}"
    log.create_topic(ITEMS, 1)
    say(log, ("hat", "{}"), ("hat", ""))
    assert [record.value for record in log.read(ITEMS, 0, 0, 10)] == [b"{}", b""]
    log.close()
    consumer = KafkaConsumer(name, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
    values = [record.value for records in consumer.poll(5000).values() for record in records]
    consumer.close()
    assert values == [b"{}", None]
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    described = str(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)]))
    admin.close()
    assert "'cleanup.policy'" in described
    assert "'compact'" in described


def test_a_write_from_where_the_store_is_not_changes_nothing(catalogue: Catalogue) -> None:
    rows = [Row(f"item-{number}", b"{}", number, number % 2 == 0, number + 1) for number in range(250)]
    catalogue.write("log:0", None, rows, 250)
    with pytest.raises(Overwritten) as refused:
        catalogue.write("log:0", None, [Row("item-1", b"", 1, True, 1)], 1)
    assert (refused.value.position, catalogue.read(["item-1"]), catalogue.count()) == (250, [b"{}"], 250)
    assert dict(catalogue.scan()).keys() == {row.item_id.encode() for row in rows}
    assert sum(catalogue.changed(None).withheld.values()) == 125


def columns(first: int, *events: Event) -> EventColumns:
    """Events at consecutive offsets."""
    return EventColumns.of(0, [(first + n, NOW_MS) for n in range(len(events))], events, first + len(events))


class Taker:
    """A handler that takes everything."""

    def assigned(self, partition: int) -> int | None:  # noqa: ARG002
        return 0

    def revoked(self, partition: int) -> None: ...

    def handle(self, batches: Sequence[EventColumns]) -> dict[int, int]:
        return {batch.partition: batch.next_offset for batch in batches}

    def drain(self) -> dict[int, int]:
        return {}


def counting(popularity: Popularity) -> Counting:
    """Of a process that was just given partition 0."""
    made = Counting(Taker(), popularity, 7, lambda: 0.0)
    made.assigned(0)
    return made


def of_late(popularity: Popularity, item: str, hours: int = 3) -> list[int]:
    return [events for _, events in popularity.read(item_key(item), "hour", NOW_MS)[-hours:]]


def test_events_are_counted_once_by_hour_and_day_however_often_they_are_read(
    redis_client: Client, namespace: str
) -> None:
    popularity = Popularity(redis_client, namespace)
    seen = [Event(f"u{n}", "hat", "view", NOW_MS - n * HOUR_MS // 2) for n in range(4)]
    batch = columns(0, *seen, erasure("u1", NOW_MS), Event("ana", "belt", "sale", NOW_MS))
    first = counting(popularity)
    assert first.handle([batch]) == {0: 6}
    first.handle([batch])
    assert of_late(popularity, "hat") == [0, 0, 0], "not written yet"
    first.drain()
    assert (sum(of_late(popularity, "hat")), of_late(popularity, "belt")) == (4, [0, 0, 1])
    second = counting(popularity)  # and one that reads on from before
    second.handle([columns(4, erasure("u1", NOW_MS), Event("ana", "belt", "sale", NOW_MS), seen[0])])
    second.drain()
    assert (sum(of_late(popularity, "hat")), of_late(popularity, "belt")) == (5, [0, 0, 1])
    days = popularity.read(item_key("hat"), "day", NOW_MS)
    assert (len(days), sum(events for _, events in days)) == (DAYS, 5)
    assert popularity.read(item_key("umbrella"), "hour", NOW_MS) == [
        ((HOUR - HOURS + 1 + n) * HOUR_MS, 0) for n in range(HOURS)
    ]


def test_hours_become_days_and_what_is_older_than_four_weeks_goes(redis_client: Client, namespace: str) -> None:
    popularity = Popularity(redis_client, namespace)
    popularity.add("log:0", None, 1, {1: {HOUR - 1000: 9, HOUR - 60: 2, HOUR - 50: 3, HOUR: 1}, 2: {HOUR - 900: 5}})
    assert [events for _, events in popularity.read(1, "hour", NOW_MS) if events] == [1]
    assert [events for _, events in popularity.read(1, "day", NOW_MS) if events] in ([2, 3, 1], [5, 1])
    popularity.add("log:0", 1, 2, {1: {HOUR: 1}})
    assert redis_client.hkeys(f"{namespace}:popularity:log:0") == [(1).to_bytes(7, "big")], (
        "the other had only old ones"
    )
    with pytest.raises(Overwritten):
        popularity.add("log:0", 1, 2, {1: {HOUR: 1}})
    assert popularity.read(1, "hour", NOW_MS)[-1] == (HOUR * HOUR_MS, 2)


def test_what_is_counted_while_the_store_is_away_waits_for_it(redis_client: Client, namespace: str) -> None:
    class Away(Popularity):
        is_away = True

        def position(self, source: str) -> int | None:
            if self.is_away:
                raise StoreUnavailable("away")
            return super().position(source)

    popularity = Away(redis_client, namespace)
    counted = counting(popularity)
    counted.handle([columns(0, Event("ana", "hat", "view", NOW_MS))])
    counted.drain()
    popularity.is_away = False
    counted.drain()
    counted.handle([columns(1, Event("ana", "hat", "view", NOW_MS))])
    counted.drain()
    assert of_late(popularity, "hat") == [0, 0, 1]
