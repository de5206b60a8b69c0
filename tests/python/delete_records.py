"""Deletes records with confluent-kafka's admin client, and asks where partitions begin and what is when.

usage: delete_records.py HOST:PORT TOPIC
"""
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec


def check(what, got, want):
    if got != want:
        sys.exit(f"{what}: {got}, not {want}")


def code(future):
    try:
        return future.result(), None
    except KafkaException as e:
        return None, e.args[0].code()


def delete(admin, topic, offset):
    asked = TopicPartition(topic, 0, offset)
    result, error = code(admin.delete_records([asked])[asked])
    return error if error is not None else result.low_watermark


def listed(admin, topic, spec):
    asked = TopicPartition(topic, 0)
    return admin.list_offsets({asked: spec})[asked].result().offset


def produce(kafka, topic, first, compression):
    """Ten records a second apart, in one batch."""
    producer = Producer({"bootstrap.servers": kafka, "compression.type": compression, "linger.ms": 500})
    for i in range(10):
        producer.produce(topic, value=b"v" * 100, timestamp=first + 1000 * i, partition=0)
    check("flush", producer.flush(30), 0)


def main():
    kafka, topic = sys.argv[1], sys.argv[2]
    admin = AdminClient({"bootstrap.servers": kafka})
    now = int(time.time() * 1000)
    produce(kafka, topic, now - 100_000, "none")
    produce(kafka, topic, now - 50_000, "zstd")
    # The largest timestamp is in the first half of a batch: a delete makes another one the largest.
    produce(kafka, topic, now - 90_000, "gzip")
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused"})

    def at(timestamp):
        return consumer.offsets_for_times([TopicPartition(topic, 0, timestamp)], 30)[0].offset

    check("first time", at(0), 0)
    check("within a plain batch", at(now - 100_000 + 3500), 4)
    check("within a compressed batch", at(now - 50_000 + 7000), 17)
    check("largest", listed(admin, topic, OffsetSpec.max_timestamp()), 19)
    check("delete", delete(admin, topic, 5), 5)
    check("delete again, less", delete(admin, topic, 3), 5)
    check("beyond the end", delete(admin, topic, 31), KafkaError.OFFSET_OUT_OF_RANGE)
    check("first time", at(0), 5)
    check("earliest", listed(admin, topic, OffsetSpec.earliest()), 5)
    check("watermarks", consumer.get_watermark_offsets(TopicPartition(topic, 0), 30, cached=False), (5, 30))
    check("delete within a compressed batch", delete(admin, topic, 15), 15)
    check("largest stays", listed(admin, topic, OffsetSpec.max_timestamp()), 19)
    check("delete the largest", delete(admin, topic, 22), 22)
    check("largest of the others", listed(admin, topic, OffsetSpec.max_timestamp()), 29)
    unknown = TopicPartition("no-such-topic", 0, 1)
    check("unknown topic", code(admin.delete_records([unknown])[unknown])[0], None)
    consumer.close()
    print("ok")


main()
