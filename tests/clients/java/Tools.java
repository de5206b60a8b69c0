import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.utils.Exit;

/** Kafka's command line tools, run by their main methods. */
final class Tools {
    /** A tool wants the process to end. */
    private static final class Exited extends RuntimeException {}

    private interface Main {
        void run(String[] args) throws Exception;
    }

    /** The first status with which the tool that runs wanted to end; it may catch that and want another. */
    private static Integer first;

    private final String broker;

    private Tools(String broker) {
        this.broker = broker;
    }

    static void run(String kafka) throws Exception {
        Exit.setExitProcedure((status, message) -> {
            first = first == null ? status : first;
            throw new Exited();
        });
        Tools tools = new Tools(kafka);
        tools.topics();
        tools.records();
        tools.deletion();
        tools.perf();
        tools.disk();
    }

    /** What the tool printed; it must end well. */
    private String tool(Main main, String... args) throws Exception {
        return tool(0, main, args);
    }

    private String tool(int expected, Main main, String... args) throws Exception {
        List<String> all = new ArrayList<>(List.of("--bootstrap-server", broker));
        all.addAll(List.of(args));
        PrintStream out = System.out;
        PrintStream err = System.err;
        var said = new ByteArrayOutputStream();
        first = null;
        try (var printed = new PrintStream(said, true)) {
            System.setOut(printed);
            System.setErr(printed);
            main.run(all.toArray(String[]::new));
        } catch (Exited exited) {
            // What it wanted is in `first`.
        } finally {
            System.setOut(out);
            System.setErr(err);
        }
        int status = first == null ? 0 : first;
        Checks.check(status == expected, String.join(" ", args) + ": status " + status + "\n" + said);
        return said.toString();
    }

    private static void contains(String said, String... texts) {
        for (String text : texts) {
            Checks.check(said.contains(text), "'" + text + "' is not in:\n" + said);
        }
    }

    private void topics() throws Exception {
        Main topics = org.apache.kafka.tools.TopicCommand::main;
        Main configs = kafka.admin.ConfigCommand::main;
        tool(topics, "--create", "--topic", "tool", "--partitions", "2", "--config", "retention.ms=99000");
        contains(tool(1, topics, "--create", "--topic", "tool"), "already exists");
        contains(tool(topics, "--list"), "tool", "java-gzip");
        tool(topics, "--alter", "--topic", "tool", "--partitions", "4");
        contains(tool(1, topics, "--alter", "--topic", "tool", "--partitions", "3"), "4 partitions");
        contains(tool(topics, "--describe", "--topic", "tool"), "PartitionCount: 4", "Partition: 3",
                "Leader: 1", "Isr: 1", "retention.ms=99000");
        tool(configs, "--alter", "--entity-type", "topics", "--entity-name", "tool",
                "--add-config", "max.message.bytes=2000000,retention.ms=88000");
        tool(configs, "--alter", "--entity-type", "topics", "--entity-name", "tool",
                "--delete-config", "retention.ms");
        String described = tool(configs, "--describe", "--entity-type", "topics", "--entity-name", "tool");
        contains(described, "max.message.bytes=2000000", "DYNAMIC_TOPIC_CONFIG:max.message.bytes=2000000");
        Checks.check(!described.contains("retention.ms"), described);
        contains(tool(configs, "--describe", "--all", "--entity-type", "topics", "--entity-name", "tool"),
                "DEFAULT_CONFIG:log.retention.ms");
        contains(tool(configs, "--describe", "--all", "--entity-type", "brokers", "--entity-name", "1"),
                "num.partitions");
        contains(tool(org.apache.kafka.tools.BrokerApiVersionsCommand::main),
                "Produce(0)", "DescribeTopicPartitions(75)");
        contains(tool(org.apache.kafka.tools.LeaderElectionCommand::main, "--election-type", "preferred",
                "--topic", "tool", "--partition", "0"), "Valid replica already elected");
    }

    private void perf() throws Exception {
        for (String compression : Checks.COMPRESSIONS) {
            String said = tool(org.apache.kafka.tools.ProducerPerformance::main, "--topic", "tool",
                    "--num-records", "1000", "--record-size", "200", "--throughput", "-1",
                    "--command-property", "compression.type=" + compression);
            contains(said, "1000 records sent");
        }
    }

    private void records() throws Exception {
        Main console = org.apache.kafka.tools.consumer.ConsoleConsumer::main;
        contains(tool(console, "--topic", "java-gzip", "--partition", "0", "--offset", "earliest",
                "--max-messages", "5", "--timeout-ms", "30000", "--formatter-property", "print.key=true",
                "--formatter-property", "print.value=false"), "0\n3\n6\n9\n12\n");
        Main offsets = org.apache.kafka.tools.GetOffsetShell::main;
        contains(tool(offsets, "--topic", "java-gzip"), "java-gzip:0:334", "java-gzip:1:333");
        contains(tool(offsets, "--topic", "java-gzip", "--time", "earliest"), "java-gzip:0:0");
    }

    /** Deletes a part of one partition and all of another; what tools and clients see of them then. */
    private void deletion() throws Exception {
        Main delete = org.apache.kafka.tools.DeleteRecordsCommand::main;
        Path file = Files.createTempFile("offsets", ".json");
        try {
            contains(tool(delete, "--offset-json-file", offsets(file, 100, -1)),
                    "java-gzip-0\tlow_watermark: 100", "java-gzip-1\tlow_watermark: 333");
            contains(tool(delete, "--offset-json-file", offsets(file, 335, -1)),
                    "java-gzip-0\terror:", "OffsetOutOfRange", "java-gzip-1\tlow_watermark: 333");
        } finally {
            Files.delete(file);
        }
        Main shell = org.apache.kafka.tools.GetOffsetShell::main;
        contains(tool(shell, "--topic", "java-gzip", "--time", "earliest"),
                "java-gzip:0:100", "java-gzip:1:333", "java-gzip:2:0");
        contains(tool(shell, "--topic", "java-gzip"), "java-gzip:0:334", "java-gzip:1:333");
        Main console = org.apache.kafka.tools.consumer.ConsoleConsumer::main;
        contains(tool(console, "--topic", "java-gzip", "--partition", "0", "--offset", "earliest",
                "--max-messages", "2", "--timeout-ms", "30000", "--formatter-property", "print.key=true",
                "--formatter-property", "print.value=false"), "300\n303\n");
        listed(OffsetSpec.earliest(), 100, 333);
        listed(OffsetSpec.latest(), 334, 333);
        listed(OffsetSpec.maxTimestamp(), 333, -1);
        listed(OffsetSpec.forTimestamp(Checks.FIRST_TIMESTAMP), 100, -1);
        listed(OffsetSpec.forTimestamp(Checks.FIRST_TIMESTAMP + 600), 200, -1);
        listed(OffsetSpec.forTimestamp(Checks.FIRST_TIMESTAMP + 7_200_000), -1, -1);
    }

    private static String offsets(Path file, long first, long second) throws Exception {
        String partition = "{\"topic\":\"java-gzip\",\"partition\":%d,\"offset\":%d}";
        String both = String.format(partition, 0, first) + "," + String.format(partition, 1, second);
        return Files.writeString(file, "{\"partitions\":[" + both + "],\"version\":1}").toString();
    }

    /** What ListOffsets says of the first two partitions. */
    private void listed(OffsetSpec spec, long first, long second) throws Exception {
        var partitions = List.of(new TopicPartition("java-gzip", 0), new TopicPartition("java-gzip", 1));
        try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", broker))) {
            var all = admin.listOffsets(Map.of(partitions.get(0), spec, partitions.get(1), spec)).all().get();
            var offsets = partitions.stream().map(p -> all.get(p).offset()).toList();
            Checks.check(offsets.equals(List.of(first, second)), spec.getClass().getSimpleName() + ": " + offsets);
        }
    }

    private void disk() throws Exception {
        String said = tool(org.apache.kafka.tools.LogDirsCommand::main, "--describe", "--topic-list", "tool,java-gzip");
        contains(said, "\"partition\":\"java-gzip-2\"", "\"partition\":\"tool-3\"");
        Main topics = org.apache.kafka.tools.TopicCommand::main;
        // One that no producer knows, who might make it again.
        tool(topics, "--create", "--topic", "gone");
        tool(topics, "--delete", "--topic", "gone");
        Checks.check(!tool(topics, "--list").contains("gone"), "a deleted topic is listed");
    }
}
