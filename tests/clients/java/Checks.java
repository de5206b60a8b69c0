import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidTimestampException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Java's producer, consumer and admin client, and the command line tools, against a broker; all in one JVM. */
public final class Checks {
    static final List<String> COMPRESSIONS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    static final int RECORDS = 1_000;
    /** Of now: what is older than the topic's retention does not stay. */
    static final long FIRST_TIMESTAMP = System.currentTimeMillis();

    public static void main(String[] args) throws Exception {
        String kafka = args[0];
        for (String compression : COMPRESSIONS) {
            String topic = "java-" + compression;
            try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", kafka))) {
                admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1))).all().get();
            }
            produce(kafka, topic, compression);
            consume(kafka, topic);
        }
        refused(kafka);
        admin(kafka);
        Groups.run(kafka);
        Tools.run(kafka);
        System.out.println("ok");
        // Nothing of what the tools started may keep the process.
        Runtime.getRuntime().halt(0);
    }

    static byte[] value(int i) {
        byte[] value = new byte[20 + i % 300];
        new Random(i).nextBytes(value);
        // Half of it compresses.
        Arrays.fill(value, 0, value.length / 2, (byte) 'x');
        return value;
    }

    static void produce(String kafka, String topic, String compression) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", kafka);
        config.put("compression.type", compression);
        config.put("linger.ms", "20");
        try (var producer =
                new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            var sent = new ArrayList<java.util.concurrent.Future<?>>();
            for (int i = 0; i < RECORDS; i++) {
                byte[] key = Integer.toString(i).getBytes(StandardCharsets.UTF_8);
                var record = new ProducerRecord<>(topic, i % 3, FIRST_TIMESTAMP + i, key, value(i));
                record.headers().add("n", key);
                sent.add(producer.send(record));
            }
            for (var one : sent) {
                one.get();
            }
        }
    }

    static void consume(String kafka, String topic) {
        Properties config = new Properties();
        config.put("bootstrap.servers", kafka);
        config.put("enable.auto.commit", "false");
        int seen = 0;
        int[] next = new int[3];
        long deadline = System.currentTimeMillis() + 60_000;
        try (var consumer =
                new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            var partitions = List.of(0, 1, 2).stream().map(p -> new TopicPartition(topic, p)).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (seen < RECORDS && System.currentTimeMillis() < deadline) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
                    int i = r.partition() + 3 * next[r.partition()]++;
                    String key = new String(r.key(), StandardCharsets.UTF_8);
                    byte[] header = r.headers().lastHeader("n").value();
                    check(key.equals(Integer.toString(i)), topic + ": key " + key + ", not " + i);
                    check(Arrays.equals(r.value(), value(i)), topic + ": value " + i + " changed");
                    check(Arrays.equals(header, r.key()), topic + ": header " + i + " changed");
                    check(r.timestamp() == FIRST_TIMESTAMP + i, topic + ": timestamp " + i + " changed");
                    check(r.offset() == next[r.partition()] - 1, topic + ": offset of " + i);
                    seen++;
                }
            }
            check(seen == RECORDS, topic + ": " + seen + " of " + RECORDS + " records");
            var ends = consumer.endOffsets(partitions).values().stream().mapToLong(Long::longValue);
            check(ends.sum() == RECORDS, topic + ": end offsets");
            var times = consumer.offsetsForTimes(Map.of(partitions.get(0), FIRST_TIMESTAMP + 300));
            check(times.get(partitions.get(0)).offset() == 100, topic + ": offset for a time");
        }
    }

    /** One record of a batch has a timestamp far ahead: it is told so, and the others that they were beside it. */
    static void refused(String kafka) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", kafka);
        config.put("linger.ms", "10000");
        try (var producer =
                new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            var sent = new ArrayList<java.util.concurrent.Future<?>>();
            for (int i = 0; i < 3; i++) {
                long ahead = i == 1 ? 7_200_000 : 0;
                sent.add(producer.send(new ProducerRecord<>("java-none", 0, FIRST_TIMESTAMP + ahead, null, value(i))));
            }
            producer.flush();
            for (int i = 0; i < 3; i++) {
                try {
                    sent.get(i).get();
                    check(false, "record " + i + " was taken");
                } catch (ExecutionException e) {
                    boolean late = e.getCause() instanceof InvalidTimestampException;
                    check(late == (i == 1), "record " + i + ": " + e.getCause());
                }
            }
        }
    }

    static void admin(String kafka) throws Exception {
        try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", kafka))) {
            Set<String> names = admin.listTopics().names().get();
            check(names.contains("java-zstd"), "listed " + names);
            var cluster = admin.describeCluster();
            check(cluster.nodes().get().size() == 1, "nodes");
            admin.createPartitions(Map.of("java-zstd", NewPartitions.increaseTo(7))).all().get();
            var described = admin.describeTopics(List.of("java-zstd")).allTopicNames().get();
            check(described.get("java-zstd").partitions().size() == 7, "partitions " + described);
            var topic = new ConfigResource(ConfigResource.Type.TOPIC, "java-zstd");
            var set = new AlterConfigOp(
                    new ConfigEntry("retention.ms", "123456"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(topic, List.of(set))).all().get();
            ConfigEntry entry = admin.describeConfigs(List.of(topic)).all().get().get(topic).get("retention.ms");
            check(entry.value().equals("123456"), "config " + entry);
            check(entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "config " + entry);
            var dirs = admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1);
            check(dirs.values().iterator().next().replicaInfos().size() >= 19, "log dirs " + dirs);
            var producers = admin.describeProducers(List.of(new TopicPartition("java-zstd", 0))).all().get();
            check(producers.values().iterator().next().activeProducers().size() == 1, "producers");
            admin.deleteTopics(List.of("java-zstd")).all().get();
            check(!admin.listTopics().names().get().contains("java-zstd"), "deleted topic is listed");
        }
    }

    static void check(boolean holds, String message) {
        if (!holds) {
            throw new AssertionError(message);
        }
    }
}
