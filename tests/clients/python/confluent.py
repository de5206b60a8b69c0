"""An idempotent confluent-kafka producer and a consumer: what went in comes out, in order, once.

usage: roundtrip.py HOST:PORT TOPIC COUNT COMPRESSION
"""
import collections
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition


def produce(kafka, topic, count, compression):
    failed = []
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 5,
                         "compression.type": compression})
    for i in range(count):
        producer.produce(topic, key=str(i), value=b"value %d " % i * 5, headers={"n": str(i)},
                         on_delivery=lambda error, _: error and failed.append(error))
        producer.poll(0)
    left = producer.flush(30)
    if left or failed:
        sys.exit(f"{left} records not acknowledged, errors {failed[:3]}")


def consume(kafka, topic, count):
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    messages, end = [], time.time() + 30
    while len(messages) < count and time.time() < end:
        message = consumer.poll(0.2)
        if message is not None and message.error():
            sys.exit(f"consume: {message.error()}")
        if message is not None:
            messages.append(message)
    consumer.close()
    return messages


def main():
    kafka, topic, count, compression = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    produce(kafka, topic, count, compression)
    messages = consume(kafka, topic, count)
    keys = collections.Counter(int(m.key()) for m in messages)
    if keys != collections.Counter(range(count)):
        sys.exit(f"{len(messages)} of {count} records, {len(keys)} different keys")
    by_partition = collections.defaultdict(list)
    for m in messages:
        i = int(m.key())
        if m.value() != b"value %d " % i * 5 or dict(m.headers()) != {"n": str(i).encode()}:
            sys.exit(f"record {i} changed: {m.value()} {m.headers()}")
        by_partition[m.partition()].append((m.offset(), i))
    for partition, seen in by_partition.items():
        offsets, numbers = [o for o, _ in seen], [i for _, i in seen]
        if offsets != list(range(len(offsets))) or numbers != sorted(numbers):
            sys.exit(f"partition {partition}: offsets {offsets[:5]}, order {numbers[:5]}")
    print("ok")


main()
