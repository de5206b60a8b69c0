import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.List;
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
