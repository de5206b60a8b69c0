"""aiokafka: every compression out and back with equal bytes, topics listed and described.

usage: aio.py HOST:PORT
"""
import asyncio
import random
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

COMPRESSIONS = [None, "gzip", "snappy", "lz4", "zstd"]
RECORDS = 600


def value(i):
    return b"x" * (i % 100) + random.Random(i).randbytes(20 + i % 200)


async def produce(kafka, topic, compression):
    producer = AIOKafkaProducer(bootstrap_servers=kafka, compression_type=compression, linger_ms=10,
                                enable_idempotence=True)
    await producer.start()
    try:
        sent = [await producer.send(topic, value(i), key=b"%d" % i, partition=i % 3, headers=[("n", b"%d" % i)])
                for i in range(RECORDS)]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def consume(kafka, topic):
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, p) for p in range(3)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        following = [0, 0, 0]
        for _ in range(RECORDS):
            r = await asyncio.wait_for(consumer.getone(), 60)
            i = r.partition + 3 * following[r.partition]
            if (r.key, r.value, r.headers) != (b"%d" % i, value(i), (("n", b"%d" % i),)):
                sys.exit(f"{topic}: record {i} changed: {r}")
            if r.offset != following[r.partition]:
                sys.exit(f"{topic}: record {i} is at offset {r.offset}")
            following[r.partition] += 1
        ends = await consumer.end_offsets(partitions)
        if sum(ends.values()) != RECORDS:
            sys.exit(f"{topic}: end offsets {ends}")
    finally:
        await consumer.stop()


async def main(kafka):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    for compression in COMPRESSIONS:
        topic = f"aio-{compression}"
        await admin.create_topics([NewTopic(topic, 3, 1)])
        await produce(kafka, topic, compression)
        await consume(kafka, topic)
    listed = await admin.list_topics()
    if "aio-zstd" not in listed:
        sys.exit(f"listed {listed}")
    await admin.create_partitions({"aio-zstd": NewPartitions(5)})
    described = await admin.describe_topics(["aio-zstd"])
    if len(described[0]["partitions"]) != 5:
        sys.exit(f"described {described}")
    await admin.delete_topics(["aio-zstd"])
    await admin.close()
    print("ok")


asyncio.run(main(sys.argv[1]))
