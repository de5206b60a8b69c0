"""Consumer groups with confluent-kafka and aiokafka.

usage: groups.py SCENARIO HOST:PORT [WORD]...
"""
import asyncio
import socket
import struct
import sys
import threading
import time

from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

LIMIT = 60  # seconds that anything may take


def check(holds, what):
    if not holds:
        sys.exit(what)


def consumer(kafka, group, **more):
    settings = {"bootstrap.servers": kafka, "group.id": group, "auto.offset.reset": "earliest",
                "enable.auto.commit": False, "session.timeout.ms": 10000}
    settings.update({name.replace("_", "."): value for name, value in more.items()})
    return Consumer(settings)


def produce(kafka, topic, numbers):
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})
    for i in numbers:
        producer.produce(topic, key=str(i), value="x" * 50)
        producer.poll(0)
    check(producer.flush(LIMIT) == 0, "records were not acknowledged")


def poll_until(c, done):
    """Polls, giving each message to `done`, until that says so."""
    end = time.time() + LIMIT
    while time.time() < end:
        m = c.poll(0.1)
        if m is not None and m.error():
            sys.exit(f"consume: {m.error()}")
        if done(m):
            return
    sys.exit("it took too long")


def read(c, count):
    """The keys of the next `count` messages; the last is committed with all before it."""
    keys = []

    def done(m):
        if m is not None:
            keys.append(int(m.key()))
        return len(keys) >= count

    poll_until(c, done)
    c.commit(asynchronous=False)
    return keys


class Reader(threading.Thread):
    """A member that commits each message; it leaves when `stop` is set."""

    def __init__(self, kafka, group, topic, strategy, seen, lock):
        super().__init__()
        self.settings = (kafka, group, topic, strategy)
        self.seen, self.lock, self.stop = seen, lock, threading.Event()

    def run(self):
        kafka, group, topic, strategy = self.settings
        c = consumer(kafka, group, partition_assignment_strategy=strategy)
        c.subscribe([topic])
        while not self.stop.is_set():
            m = c.poll(0.1)
            if m is not None and not m.error():
                try:
                    c.commit(m, asynchronous=False)
                except KafkaException as e:
                    # A rebalance took the partition away: whoever has it now reads on from the last commit.
                    rebalanced = (KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION,
                                  KafkaError.UNKNOWN_MEMBER_ID, KafkaError._ASSIGNMENT_LOST, KafkaError._NO_OFFSET)
                    if e.args[0].code() not in rebalanced:
                        raise
                with self.lock:
                    self.seen.append(int(m.key()))
        c.close()


def three(kafka, topic, strategy):
    """Three members, one leaving: every record is read, and what is committed is all of it."""
    seen, lock = [], threading.Lock()
    readers = [Reader(kafka, "g-" + strategy, topic, strategy, seen, lock) for _ in range(3)]
    [r.start() for r in readers]
    produce(kafka, topic, range(0, 600))
    wait(lambda: len(set(seen)) >= 300, "half is read", readers)
    readers[0].stop.set()
    readers[0].join()
    produce(kafka, topic, range(600, 1200))
    wait(lambda: len(set(seen)) == 1200, "everything is read", readers)
    for r in readers:
        r.stop.set()
        r.join()
    c = consumer(kafka, "g-" + strategy)
    partitions = sorted(c.list_topics(topic, 30).topics[topic].partitions)
    committed = c.committed([TopicPartition(topic, p) for p in partitions], 30)
    check(sum(max(0, p.offset) for p in committed) == 1200, f"committed {committed}")
    print(f"{len(seen) - 1200} repeated")


def wait(holds, what, readers=()):
    end = time.time() + LIMIT
    while not holds():
        if time.time() > end:
            [r.stop.set() for r in readers]
            sys.exit(f"it took too long until {what}")
        time.sleep(0.05)


def begin(kafka, topic):
    """Reads 100 of 300 records and commits."""
    produce(kafka, topic, range(300))
    c = consumer(kafka, "resumes")
    c.subscribe([topic])
    keys = read(c, 100)
    c.close()
    print(*keys)


def resume(kafka, topic, *before):
    """Goes on where `begin` ended: the rest, no more, no less."""
    c = consumer(kafka, "resumes")
    c.subscribe([topic])
    keys = read(c, 300 - len(before))
    c.close()
    both = sorted(keys + [int(k) for k in before])
    check(both == list(range(300)), f"{len(keys)} read after the start, {len(set(both))} in all")


def admin(kafka, topic):
    """Lists, describes and deletes groups."""
    produce(kafka, topic, range(10))
    client = AdminClient({"bootstrap.servers": kafka})
    c = consumer(kafka, "described", client_id="somebody")
    c.subscribe([topic])
    read(c, 10)

    def described(group):
        return client.describe_consumer_groups([group])[group].result(30)

    d = described("described")
    check(d.state == ConsumerGroupState.STABLE and len(d.members) == 1, f"{d.state} {d.members}")
    member = d.members[0]
    check(member.client_id == "somebody" and "127.0.0.1" in member.host, f"{member.client_id} {member.host}")
    check(len(member.assignment.topic_partitions) == 2, f"assigned {member.assignment.topic_partitions}")
    check(refusal(client, "described") == KafkaError.NON_EMPTY_GROUP, "a group with members was deleted")
    c.close()
    check(described("described").state == ConsumerGroupState.EMPTY, "it is empty when its member has left")
    listed = {g.group_id: g.state for g in client.list_consumer_groups(request_timeout=30).result(30).valid}
    check(listed.get("described") == ConsumerGroupState.EMPTY, f"listed {listed}")
    offsets(client, topic, "described", 10)
    offset_delete(kafka, "described", topic, 0)
    left = {p.partition for p in fetched(client, "described")}
    check(left == {1}, f"offsets of {left} are left")
    check(refusal(client, "described") is None, "it was not deleted")
    check(fetched(client, "described") == [], "its offsets are gone with it")
    check(refusal(client, "described") == KafkaError.GROUP_ID_NOT_FOUND, "it was deleted twice")


def refusal(client, group):
    try:
        client.delete_consumer_groups([group])[group].result(30)
        return None
    except KafkaException as e:
        return e.args[0].code()


def fetched(client, group):
    asked = [ConsumerGroupTopicPartitions(group)]
    return client.list_consumer_group_offsets(asked)[group].result(30).topic_partitions


def offsets(client, topic, group, count):
    there = fetched(client, group)
    check(sum(p.offset for p in there) == count, f"offsets {there}")


def offset_delete(kafka, group, topic, partition):
    """OffsetDelete version 0, which the client does not have."""
    text = lambda s: struct.pack(">h", len(s)) + s.encode()
    body = text(group) + struct.pack(">i", 1) + text(topic) + struct.pack(">ii", 1, partition)
    frame = struct.pack(">hhi", 47, 0, 1) + text("raw") + body
    host, port = kafka.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as s:
        s.sendall(struct.pack(">i", len(frame)) + frame)
        f = s.makefile("rb")
        answer = f.read(struct.unpack(">i", f.read(4))[0])
    check(struct.unpack(">h", answer[4:6])[0] == 0 and answer[-2:] == b"\0\0", f"OffsetDelete: {answer}")


def static(kafka, topic):
    """A static member that comes back keeps its partitions, and the other one sees no rebalance."""
    produce(kafka, topic, range(10))
    revoked = []
    held = lambda m: len(m.assignment()) == 1
    stays = consumer(kafka, "static", group_instance_id="stays")
    goes = consumer(kafka, "static", group_instance_id="goes")
    stays.subscribe([topic], on_revoke=lambda *_: revoked.append(1))
    goes.subscribe([topic])
    poll_both(stays, goes, lambda: held(stays) and held(goes))
    before, revoked[:] = goes.assignment()[0].partition, []
    goes.close()
    back = consumer(kafka, "static", group_instance_id="goes")
    back.subscribe([topic])
    poll_both(stays, back, lambda: held(back))
    check(back.assignment()[0].partition == before, "it got another partition")
    check(not revoked, "the other member had to rebalance")
    check(held(stays), "the other member has lost its partition")
    stays.close()
    back.close()


def poll_both(a, b, done):
    end = time.time() + LIMIT
    while not done():
        check(time.time() < end, "it took too long")
        a.poll(0.05)
        b.poll(0.05)


def kept(kafka, topic):
    """Commits 7 of partition 0 in the group `kept`."""
    c = consumer(kafka, "kept")
    c.commit(offsets=[TopicPartition(topic, 0, 7, "said")], asynchronous=False)
    check(c.committed([TopicPartition(topic, 0)], 30)[0].offset == 7, "it is not committed")


def committed(kafka, topic, offset):
    """What `kept` has committed of partition 0."""
    c = consumer(kafka, "kept")
    is_ = c.committed([TopicPartition(topic, 0)], 30)[0].offset
    check(is_ == int(offset), f"committed is {is_}, not {offset}")


def internal(kafka, topic):
    """The topic of groups is read as any other, and nobody else writes to it or deletes it."""
    kept(kafka, topic)
    c = Consumer({"bootstrap.servers": kafka, "group.id": "reads-offsets", "auto.offset.reset": "earliest",
                  "enable.auto.commit": False, "enable.partition.eof": False})
    name = "__consumer_offsets"
    partitions = c.list_topics(name, 30).topics[name].partitions
    check(len(partitions) == 50, f"{len(partitions)} partitions")
    c.assign([TopicPartition(name, p, 0) for p in partitions])
    found = []

    def done(m):
        if m is not None and m.key()[:2] == b"\0\1":
            found.append((m.partition(), m.key(), m.value()))
        return bool(found)

    poll_until(c, done)
    partition, key, value = found[0]
    check(key == b"\0\1\0\4kept\0\1" + topic.encode() + b"\0\0\0\0", f"key {key}")
    check(value[:10] == b"\0\3" + struct.pack(">q", 7), f"value {value}")
    # "kept".hashCode() is 3288286.
    check(partition == 3288286 % 50, f"it lies in partition {partition}")
    failed = []
    producer = Producer({"bootstrap.servers": kafka, "message.timeout.ms": 20000})
    producer.produce(name, b"x", on_delivery=lambda error, _: failed.append(error))
    producer.flush(30)
    check(failed and failed[0] is not None, "somebody wrote to it")
    try:
        AdminClient({"bootstrap.servers": kafka}).delete_topics([name])[name].result(30)
        sys.exit("somebody deleted it")
    except KafkaException:
        pass


def grow(kafka, topic):
    """Commits so much that the live state is copied forward: the log of its partition no longer starts at 0."""
    c = consumer(kafka, "kept")
    for i in range(1, 61):
        c.commit(offsets=[TopicPartition(topic, p, i, "x" * 4000) for p in range(100)], asynchronous=False)
    place = TopicPartition("__consumer_offsets", 3288286 % 50)
    wait(lambda: c.get_watermark_offsets(place, 30)[0] > 0, "the log starts later")
    grown(kafka, topic)


def grown(kafka, topic):
    """What `grow` has committed."""
    c = consumer(kafka, "kept")
    offsets = {p.offset for p in c.committed([TopicPartition(topic, p) for p in range(100)], 30)}
    check(offsets == {60}, f"committed are {offsets}")


def aio(kafka, topic):
    """aiokafka: two members share a topic, one leaves, the other reads on."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    async def main():
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        for i in range(200):
            await producer.send_and_wait(topic, str(i).encode()) if i % 50 == 0 else await producer.send(topic, str(i).encode())
        await producer.flush()
        members = [AIOKafkaConsumer(topic, bootstrap_servers=kafka, group_id="aio", auto_offset_reset="earliest",
                                    enable_auto_commit=False) for _ in range(2)]
        seen = set()

        async def run(member, enough):
            while not enough():
                for _, messages in (await member.getmany(timeout_ms=100)).items():
                    seen.update(int(m.value) for m in messages)
                    await member.commit()

        [await m.start() for m in members]
        await asyncio.gather(*(run(m, lambda: len(seen) >= 200) for m in members))
        await members[0].stop()
        for i in range(200, 300):
            await producer.send(topic, str(i).encode())
        await producer.flush()
        await run(members[1], lambda: len(seen) >= 300)
        await members[1].stop()
        await producer.stop()

    asyncio.run(asyncio.wait_for(main(), 2 * LIMIT))


SCENARIOS = {f.__name__: f for f in (three, begin, resume, admin, static, kept, committed, internal, grow, grown, aio)}
SCENARIOS[sys.argv[1]](*sys.argv[2:])
print("ok")
