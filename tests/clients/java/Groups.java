import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** A group of three Java consumers: work is shared, one leaves, offsets are committed, the next goes on from there. */
final class Groups {
    private static final int PARTITIONS = 6;
    private static final String TOPIC = "java-group";

    private final String kafka;
    private final List<KafkaConsumer<String, String>> members = new ArrayList<>();
    private final Set<String> seen = new HashSet<>();
    private int records;

    private Groups(String kafka) {
        this.kafka = kafka;
    }

    static void run(String kafka) throws Exception {
        try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", kafka))) {
            admin.createTopics(List.of(new NewTopic(TOPIC, PARTITIONS, (short) 1))).all().get();
            new Groups(kafka).check();
            var offsets = admin.listConsumerGroupOffsets("java").partitionsToOffsetAndMetadata().get();
            long committed = offsets.values().stream().mapToLong(o -> o.offset()).sum();
            Checks.check(committed == 1_260, "committed " + offsets);
            Checks.check(admin.listGroups().all().get().stream().anyMatch(g -> g.groupId().equals("java")), "groups");
        }
    }

    private void check() throws Exception {
        produce(600);
        for (int i = 0; i < 3; i++) {
            join();
        }
        until("three share the work", () -> shares(2) && seen.size() == 600);
        members.remove(2).close();
        produce(600);
        until("two take over what the third had", () -> shares(3) && seen.size() == 1_200);
        while (!members.isEmpty()) {
            members.remove(0).close();
        }
        seen.clear();
        produce(60);
        join();
        until("the next goes on where they stood", () -> seen.size() >= 60);
        Checks.check(seen.size() == 60, "records were read again: " + seen.size());
        members.remove(0).close();
    }

    private void join() {
        Properties config = new Properties();
        config.put("bootstrap.servers", kafka);
        config.put("group.id", "java");
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "earliest");
        var member = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
        member.subscribe(List.of(TOPIC));
        members.add(member);
    }

    private boolean shares(int each) {
        return members.stream().allMatch(m -> m.assignment().size() == each);
    }

    private void until(String what, BooleanSupplier holds) {
        long deadline = System.currentTimeMillis() + 60_000;
        while (!holds.getAsBoolean()) {
            Checks.check(System.currentTimeMillis() < deadline, what + ": " + seen.size() + " records seen");
            for (var member : members) {
                for (ConsumerRecord<String, String> r : member.poll(Duration.ofMillis(50))) {
                    seen.add(r.key());
                }
                try {
                    member.commitSync();
                } catch (CommitFailedException | RebalanceInProgressException e) {
                    // The group changed meanwhile: the next poll joins it again.
                }
            }
        }
    }

    private void produce(int count) {
        Properties config = new Properties();
        config.put("bootstrap.servers", kafka);
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < count; i++, records++) {
                String key = Integer.toString(records);
                producer.send(new ProducerRecord<>(TOPIC, records % PARTITIONS, key, "v"));
            }
        }
    }
}
