"""A broker that hangs: events wait for it for a moment, then go to the disk, and count once whatever it took before."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ledstream import parts
from ledstream.settings import read_settings
from stream.events import decode_event
from stream.kept import SPOOLED, KeptLog
from stream.log import Position
from stream.spool import Spool
from stream.topics import EVENTS
from tests.eventually import until
from tests.servers import KafkaServer
from tests.test_spool import entries

WITHIN_S = 3 * parts.PATIENCE_S  # the producer's own time, and a request that began just before it ended


@pytest.mark.kafka
@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_nobody_waits_for_long_for_a_broker_that_hangs(
    client: str, kafka_server: KafkaServer, namespace: str, tmp_path: Path
) -> None:
    flags = {"log": f"kafka://{kafka_server.bootstrap}", "store": "redis://localhost:1", "namespace": namespace}
    spool = Spool(tmp_path, 1 << 20)
    log = parts.open_log(read_settings({}, flags | {"kafka_client": client, "partitions": 1}), meanwhile=spool)
    kept = KeptLog(log, spool)
    kept.start()
    assert isinstance(kept.append(entries("item-0"))[0], Position)
    kafka_server.pause()
    try:
        for number, within_s in ((1, WITHIN_S), (2, 1.0)):
            begun = time.monotonic()
            assert kept.append(entries(f"item-{number}")) == [SPOOLED]
            assert time.monotonic() - begun < within_s
    finally:
        kafka_server.resume()
    until(spool.is_empty, within_s=30)
    assert isinstance(kept.append(entries("item-3"))[0], Position)
    kept.stop()
    records = log.read(EVENTS, 0, 0, 100)
    log.close()
    events = [decode_event(record.value) for record in records]
    first_of_each = dict.fromkeys((event.event_id, event.item_id) for event in events)
    assert [item for _, item in first_of_each] == [f"item-{number}" for number in range(4)]
