"""A group's consumer by the client confluent-kafka: positions of its own, messages as batches, errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.kafka_base import COMMIT_TIMEOUT_MS, meaning
from stream.kafka_reader import OutOfPlace, Place
from stream.log import Batch, LogUnavailable

_OUT_OF_PLACE = {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}
# They pass by themselves: the client is on its way to another broker, or joins its group again.
_PASSING = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._MAX_POLL_EXCEEDED}
_MISTAKES = {KafkaError._INVALID_ARG, KafkaError._UNSUPPORTED_FEATURE}


class ConfluentGroupClient:
    """See `stream.kafka_reader.GroupClient`. name: what the topic is called on the brokers.

    It keeps the positions itself, and gives the client its partitions only together with an offset each.
    """

    def __init__(self, consumer: Consumer, topic: str, name: str) -> None:
        self._consumer, self._topic, self._name = consumer, topic, name
        self._positions: dict[int, int] = {}
        self._stopped: dict[int, int] = {}  # positions while the group is shared out anew
        self._new: set[int] = set()  # assigned, and nobody asked yet where to begin
        self._unplaced: dict[int, Place] = {}
        self._epochs: dict[int, int] = {}  # the leader's, of the record before the position
        self._trusted: dict[int, int] = {}  # the leader's, under whom the position was found good
        self._has_moved = False
        self._is_joining = True
        self._commits = ThreadPoolExecutor(1, "commits")
        self._committing: Future[list[TopicPartition]] | None = None
        consumer.subscribe([name], on_assign=self._take, on_revoke=self._stop, on_lost=self._lose)

    def poll(self, max_records: int, timeout_s: float) -> list[Batch]:
        with ours(self._topic):
            self._begin()
            self._raise_unplaced()
            messages = polled(self._consumer, max_records, timeout_s)
            try:
                found = by_partition(records(messages, self._note))
                found = [(number, of_one) for number, of_one in found if self._is_next(number, of_one)]
            except KafkaException:
                self._has_moved = True  # records that came with the error are read again
                raise
        batches = [batch_of(number, of_one) for number, of_one in found]
        self._positions.update((batch.partition, batch.next_offset) for batch in batches)
        if not batches:
            self._raise_unplaced()
        return batches

    def is_joining(self) -> bool:
        return self._is_joining

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        # The client waits for a coordinator as long as it takes, and knows no timeout here; a thread of ours does.
        if self._committing is not None and not self._committing.done():
            raise LogUnavailable("an earlier commit is still under way")
        offsets = self._places(next_offsets)
        with ours(self._topic):
            self._committing = self._commits.submit(self._consumer.commit, offsets=offsets, asynchronous=False)
            try:
                answers = self._committing.result(timeout=COMMIT_TIMEOUT_MS / 1000)
            except TimeoutError:
                raise LogUnavailable("the commit is not acknowledged yet") from None
            for answer in answers:
                if answer.error:
                    raise KafkaException(answer.error)

    def seek(self, partition: int, offset: int) -> None:
        # By a new assignment before the next read: the client's own seek is refused where it has no place at all.
        self._positions[partition], self._has_moved = offset, True
        self._epochs.pop(partition, None)
        self._unplaced.pop(partition, None)
        self._new.discard(partition)

    def assignment(self) -> frozenset[int]:
        return frozenset(self._positions.keys() | self._unplaced.keys() | self._new)

    def positions(self) -> dict[int, int]:
        with ours(self._topic):
            self._begin()
        self._raise_unplaced()
        return dict(self._positions)

    def keep_alive(self) -> None:
        with ours(self._topic):
            self._consumer.pause(self._consumer.assignment())
            try:
                # Nothing can come but records of partitions assigned in this very call, and those have no place yet.
                records(self._consumer.consume(1, 0), self._note)
            finally:
                self._consumer.resume(self._consumer.assignment())

    def close(self) -> None:
        with ours(self._topic):
            self._consumer.close()
        self._commits.shutdown(wait=False)
        self._lose(self._consumer, [])

    def _take(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        taken = {where.partition for where in partitions}
        # Partitions that stayed go on where they were.
        self._positions = {number: at for number, at in self._stopped.items() if number in taken}
        self._new, self._is_joining, self._has_moved = taken - self._positions.keys(), False, True
        consumer.assign([])

    def _stop(self, _: Consumer, __: list[TopicPartition]) -> None:
        """All of them: the group is shared out anew."""
        self._stopped, self._positions = self._positions, {}
        self._unplaced, self._new, self._is_joining, self._has_moved = {}, set(), True, False

    def _lose(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Others may have gone on with them."""
        self._stop(consumer, partitions)
        self._stopped = {}

    def _begin(self) -> None:
        """Every partition gets its offset: the committed one, or what was sought."""
        if self._new:
            where = [TopicPartition(self._name, number) for number in sorted(self._new)]
            for at in self._consumer.committed(where, timeout=COMMIT_TIMEOUT_MS / 1000):
                if at.error:
                    raise KafkaException(at.error)
                if at.offset >= 0:
                    self._positions[at.partition] = at.offset
                    self._epochs[at.partition] = _epoch(at.leader_epoch)
                else:
                    self._unplaced[at.partition] = Place(None)
            self._new, self._has_moved = set(), True
        if self._has_moved:
            self._consumer.assign(self._places(self._positions))
            self._has_moved = False

    def _places(self, offsets: Mapping[int, int]) -> list[TopicPartition]:
        """With the leader's epoch, by which the brokers can tell whether the log still is what led up to the offset."""
        return [
            TopicPartition(self._name, number, offset, leader_epoch=self._epochs.get(number, -1))
            for number, offset in sorted(offsets.items())
        ]

    def _is_next(self, number: int, found: list[Message]) -> bool:
        """Whether to hand these out. A rebalance in between may have taken them.

        Under a new leader the log may have become another: the client is asked to make sure and to read them again.
        """
        if number not in self._positions:
            return False
        epoch, known = _epoch(found[0].leader_epoch()), self._epochs.get(number, -1)
        if 0 <= known < epoch and self._trusted.get(number, -1) < epoch:
            self._consumer.seek(*self._places({number: self._positions[number]}))
            self._trusted[number] = epoch
            return False
        self._epochs[number] = _epoch(found[-1].leader_epoch())
        return True

    def _note(self, message: Message) -> bool:
        """Whether the message says that the client has lost its place; poll raises it once the records are out."""
        error, number = message.error(), message.partition()
        if error is None or error.code() not in _OUT_OF_PLACE:
            return False
        if number in self._positions:
            is_cut = "truncation" in error.str()  # its code is the same as for an offset out of range
            self._unplaced[number] = Place(self._positions.pop(number), is_cut)
        return True

    def _raise_unplaced(self) -> None:
        if self._unplaced:
            raise OutOfPlace(self._unplaced)


def polled(consumer: Consumer, max_records: int, timeout_s: float) -> list[Message]:
    """What is there, or else what comes first: asked for many, the client would wait until it has them all."""
    messages = consumer.consume(max_records, 0)
    if not messages and (first := consumer.poll(timeout_s)) is not None:
        messages = [first, *(consumer.consume(max_records - 1, 0) if max_records > 1 else ())]
    return messages


def records(messages: list[Message], is_noted: Callable[[Message], bool] = lambda _: False) -> list[Message]:
    """The messages that are records. Others are errors, raised where they are neither noted nor pass by themselves."""
    if not any(map(Message.error, messages)):
        return messages
    for message in messages:
        error = message.error()
        if error is not None and not is_noted(message) and error.code() not in _PASSING:
            raise KafkaException(error)
    return [message for message in messages if message.error() is None]


def by_partition(messages: list[Message]) -> list[tuple[int, list[Message]]]:
    """The messages of each partition, in their order."""
    number_of: Callable[[Message], Any] = Message.partition
    return [(number, list(found)) for number, found in groupby(sorted(messages, key=number_of), key=number_of)]


def batch_of(partition: int, messages: list[Message]) -> Batch:
    """The batch of these messages, one at least."""
    offset_of: Callable[[Message], Any] = Message.offset
    return Batch(
        partition,
        list(map(offset_of, messages)),
        [time_ms for _, time_ms in map(Message.timestamp, messages)],
        [key or b"" for key in map(Message.key, messages)],
        [value or b"" for value in map(Message.value, messages)],
    )


@contextmanager
def ours(topic: str) -> Iterator[None]:
    """The client's errors as ours."""
    try:
        yield
    except KafkaException as error:
        known = meaning(topic, code_of(error), error)
        if known is error or code_of(error) in _MISTAKES:
            raise
        raise known from error


def code_of(error: Exception) -> int | None:
    """The protocol's number for the error, or the client's own, which is below 0; None for no error of Kafka."""
    return error.args[0].code() if isinstance(error, KafkaException) else None


def _epoch(found: int | None) -> int:
    return -1 if found is None else found
