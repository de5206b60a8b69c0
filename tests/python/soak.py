"""Producers of every compression type and their consumers, until standard input ends; then what went in must be out.

usage: soak.py HOST:PORT PREFIX RECORDS_PER_SECOND groups|plain

Each producer writes to PREFIX-<codec>, whose partitions are numbered on their own: a record that is lost or doubled shows
as a number that is missing or comes again. With `groups`, two members share the partitions and one keeps leaving.
Prints a line of JSON at the end.
"""
import json
import sys
import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

CODECS = {"none": False, "gzip": True, "snappy": False, "lz4": True, "zstd": True}
PARTITIONS = 3
LEAVE_EVERY = 30
DRAIN_MAX = 120


class Tally:
    """What was acknowledged and what was seen, by topic and partition."""

    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged = {}
        self.next = {}
        self.number = {}
        self.redelivered = 0
        self.problems = []

    def problem(self, text):
        with self.lock:
            if len(self.problems) < 20:
                self.problems.append(text)

    def acknowledge(self, error, message):
        if error is not None:
            return self.problem(f"not acknowledged: {error}")
        key = (message.topic(), message.partition())
        with self.lock:
            self.acknowledged[key] = self.acknowledged.get(key, 0) + 1

    def see(self, message):
        key, offset, number = (message.topic(), message.partition()), message.offset(), int(message.key())
        with self.lock:
            due = self.next.get(key, 0)
            if offset < due:
                self.redelivered += 1
                return
            wanted = self.number.get(key, -1) + 1
            if offset > due or number != wanted:
                text = f"{key}: offset {offset} where {due} belongs, record {number} where {wanted} belongs"
                if len(self.problems) < 20:
                    self.problems.append(text)
            self.next[key], self.number[key] = offset + 1, number

    def drained(self):
        with self.lock:
            return all(self.next.get(key, 0) >= count for key, count in self.acknowledged.items())


def produce(kafka, prefix, rate, tally, stop):
    producers = {}
    for codec, idempotent in CODECS.items():
        producers[codec] = Producer({"bootstrap.servers": kafka, "compression.type": codec, "linger.ms": 20,
                                     "enable.idempotence": idempotent, "acks": "all"})
    number, began, sent = 0, time.time(), 0
    pad = b"padding of a record that compresses well " * 8
    while not stop.is_set():
        for codec, producer in producers.items():
            for partition in range(PARTITIONS):
                while True:
                    try:
                        producer.produce(f"{prefix}-{codec}", key=str(number), value=pad + str(number).encode(),
                                         partition=partition, on_delivery=tally.acknowledge)
                        break
                    except BufferError:
                        producer.poll(0.1)
                sent += 1
            producer.poll(0)
        number += 1
        ahead = sent / rate - (time.time() - began)
        if ahead > 0:
            time.sleep(ahead)
    for codec, producer in producers.items():
        left = producer.flush(60)
        if left:
            tally.problem(f"{left} records of {codec} were never acknowledged")


def configuration(kafka):
    return {"bootstrap.servers": kafka, "group.id": "soak", "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "session.timeout.ms": 30000}


def read(consumer, tally):
    for message in consumer.consume(500, 0.5):
        if message.error():
            tally.problem(f"consume: {message.error()}")
        else:
            tally.see(message)


def consume_plain(kafka, topics, tally, done):
    consumer = Consumer(configuration(kafka))
    consumer.assign([TopicPartition(t, p, OFFSET_BEGINNING) for t in topics for p in range(PARTITIONS)])
    while not done.is_set():
        read(consumer, tally)
    consumer.close()


def consume_in_group(kafka, topics, tally, done, leaves):
    while not done.is_set():
        consumer = Consumer(configuration(kafka))
        consumer.subscribe(topics)
        end = time.time() + LEAVE_EVERY
        while not done.is_set() and not (leaves and time.time() > end):
            read(consumer, tally)
            try:
                consumer.commit(asynchronous=False)
            except KafkaException:
                # Nothing to commit, or the partitions have gone to the other member: they are read there.
                pass
        consumer.close()


def main():
    kafka, prefix, rate, mode = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
    topics = [f"{prefix}-{codec}" for codec in CODECS]
    tally, stop, done = Tally(), threading.Event(), threading.Event()
    producing = threading.Thread(target=produce, args=(kafka, prefix, rate, tally, stop))
    if mode == "groups":
        consuming = [threading.Thread(target=consume_in_group, args=(kafka, topics, tally, done, leaves))
                     for leaves in (False, True)]
    else:
        consuming = [threading.Thread(target=consume_plain, args=(kafka, topics, tally, done))]
    for thread in [producing, *consuming]:
        thread.start()
    sys.stdin.read()
    stop.set()
    producing.join()
    end = time.time() + DRAIN_MAX
    while not tally.drained() and time.time() < end:
        time.sleep(0.2)
    drained = tally.drained()
    done.set()
    for thread in consuming:
        thread.join()
    acknowledged, seen = sum(tally.acknowledged.values()), sum(tally.next.values())
    if not drained:
        tally.problem(f"{acknowledged} records were acknowledged, {seen} came out")
    if seen > acknowledged:
        tally.problem(f"{seen} records came out of {acknowledged}")
    print(json.dumps({"acknowledged": acknowledged, "seen": seen, "redelivered": tally.redelivered,
                      "problems": tally.problems}))


main()
