"""A producer whose broker was away for longer than it keeps trying: what it gave up costs nothing that comes later."""

from __future__ import annotations

import threading
import time

import pytest

from stream.confluent_log import ConfluentLog
from stream.kafka_base import KafkaBase
from stream.kafka_log import KafkaLog
from stream.log import Entry, LogUnavailable, Position
from tests.servers import KafkaServer

SENDERS, DELIVERY_TIMEOUT_S = 4, 3.0


@pytest.mark.kafka
@pytest.mark.faults
# A connection that the dying broker resets at a bad moment kafka-python leaves to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("client", [KafkaLog, ConfluentLog], ids=["kafka-python", "confluent"])
def test_batches_given_up_under_load_do_not_keep_the_next_ones_from_being_stored(
    client: type[KafkaBase], kafka_server: KafkaServer, namespace: str
) -> None:
    log = client([kafka_server.bootstrap], namespace, delivery_timeout_s=DELIVERY_TIMEOUT_S)
    log.create_topic("events", 4)
    is_over = threading.Event()
    outcomes: list[Position | LogUnavailable] = []
    acknowledged_at = [0.0] * SENDERS

    def send(sender: int) -> None:
        while not is_over.is_set():
            time.sleep(0.005)
            try:
                results = log.append("events", [Entry(b"user-%d" % n, b"%d" % sender, n) for n in range(10)])
            except LogUnavailable as error:
                results = [error]
            outcomes.extend(results)
            if not any(isinstance(result, LogUnavailable) for result in results):
                acknowledged_at[sender] = time.monotonic()

    senders = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for one in senders:
        one.start()
    for _ in range(3):
        wait_for_all(acknowledged_at)
        kafka_server.kill()
        time.sleep(DELIVERY_TIMEOUT_S + 1)
        kafka_server.start()
        wait_for_all(acknowledged_at)
    is_over.set()
    for one in senders:
        one.join()
    stored = [result for result in outcomes if isinstance(result, Position)]
    assert len(stored) < len(outcomes), "some were given up"
    assert len(set(stored)) == len(stored)
    log.close()


def wait_for_all(acknowledged_at: list[float]) -> None:
    """Until every sender had all of its entries acknowledged once more."""
    now = time.monotonic()
    while min(acknowledged_at) <= now:
        assert time.monotonic() < now + 30
        time.sleep(0.05)
