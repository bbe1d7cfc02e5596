"""Which log an address means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

from store.connection import connect
from stream.log import Log
from stream.redis_log import FORGET_GROUPS_AFTER_S, RedisLog

if TYPE_CHECKING:
    from stream.confluent_log import ConfluentLog
    from stream.kafka_log import KafkaLog


FORGET = "forget_groups_after_s"
DELIVERY_TIMEOUT_S = 15.0  # outlives a fail-over of Kafka (9.75 s with brokers' own settings)


class MissingClient(ImportError):
    """The Kafka client that was chosen is not installed; the sentence says how to."""


def open_log(
    address: str,
    namespace: str,
    *,
    kafka_client: Literal["kafka-python", "confluent"] = "kafka-python",
    delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
) -> Log:
    """The log at `kafka://host:port,host:port?replication=3`, `redis://…`, `rediss://…` or `unix:///path`.

    The latter three take `?forget_groups_after_s=604800` beside what the Redis client understands.
    delivery_timeout_s: when an append to Kafka gives up; one to Redis does as its client says.
    Connects at first use. Raises ValueError, naming the address, where it cannot be understood; MissingClient.
    """
    parts = urlsplit(address)
    if parts.scheme == "kafka":
        kind = _kafka_log() if kafka_client == "kafka-python" else _confluent_log()
        options = {"replication": _replication(address), "delivery_timeout_s": delivery_timeout_s}
        return kind(_brokers(address), namespace, **options)
    if parts.scheme in ("redis", "rediss", "unix"):
        try:
            address_of_redis, forget_groups_after_s = _forget_groups_after_s(address)
            return RedisLog(connect(address_of_redis), namespace, forget_groups_after_s=forget_groups_after_s)
        except ValueError as error:
            raise ValueError(f"log address {address!r}: {error}") from error
    raise ValueError(f"log address {address!r}: it must begin with kafka://, redis://, rediss:// or unix://")


def _kafka_log() -> type[KafkaLog]:
    from stream.kafka_log import KafkaLog  # half as long to import as all the rest, and no use without a broker

    return KafkaLog


def _confluent_log() -> type[ConfluentLog]:
    try:
        from stream.confluent_log import ConfluentLog
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise MissingClient(
            "confluent-kafka is not installed: install the extra `confluent` (pip install 'ledstream[confluent]')"
        ) from error
    return ConfluentLog


def _brokers(address: str) -> list[str]:
    parts = urlsplit(address)
    brokers = parts.netloc.split(",")
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        if not host or "@" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"log address {address!r}: broker {broker!r} is not host:port")
    if parts.path.strip("/") or parts.fragment:
        raise ValueError(f"log address {address!r}: nothing but ?replication=… may follow the brokers")
    return brokers


def _forget_groups_after_s(address: str) -> tuple[str, float]:
    """The address without the setting, and the setting."""
    base, _, query = address.partition("?")
    options = [option.partition("=") for option in query.split("&") if option]
    values = [value for name, _, value in options if name == FORGET]
    if values and not (values[-1].isdecimal() and int(values[-1])):
        raise ValueError(f"{FORGET} = {values[-1]!r} is not a whole number of seconds from 1 on")
    others = "&".join("=".join((name, value)) for name, _, value in options if name != FORGET)
    return base + ("?" + others if others else ""), float(values[-1]) if values else FORGET_GROUPS_AFTER_S


def _replication(address: str) -> int:
    settings = parse_qs(urlsplit(address).query, keep_blank_values=True)
    unknown = sorted(settings.keys() - {"replication"})
    if unknown:
        raise ValueError(f"log address {address!r}: unknown setting {unknown[0]!r}, replication is known")
    value = settings.get("replication", ["1"])[-1]
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"log address {address!r}: replication = {value!r} is not a whole number from 1 on")
    return int(value)
