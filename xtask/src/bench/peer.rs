//! Apache Kafka beside us: its jars from Maven Central, one node, formatted anew for every round.

use super::sides::empty;
use crate::process::{self, exists, program, target_dir};
use std::path::PathBuf;

const VERSION: &str = "4.3.1";
const LOG4J: &str = "2.25.5";
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";
const ADDRESS: &str = "127.0.0.1:19092";

/// An installed peer.
#[derive(Debug)]
pub(super) struct Peer {
    folder: PathBuf,
}

impl Peer {
    /// Copies the jars into `target/kafka-peer`, once.
    pub(super) fn install() -> Result<Peer, String> {
        let folder = target_dir().join("kafka-peer");
        let peer = Peer { folder };
        if !exists("mvn") || !exists("java") {
            return Err("--with-kafka needs `mvn` and `java` (17 or later)".to_owned());
        }
        peer.write("pom.xml", &pom())?;
        peer.write("server.properties", &peer.properties())?;
        peer.write("log4j2.yaml", LOGGING)?;
        let done = peer.folder.join("libs/.complete");
        if !done.is_file() {
            println!(
                "copying Apache Kafka {VERSION} (130 MB) into {}",
                peer.folder.display()
            );
            let mut command = program(
                "mvn",
                &[
                    "-q",
                    COPY,
                    "-DoutputDirectory=libs",
                    "-DincludeScope=runtime",
                ],
            );
            process::run(command.current_dir(&peer.folder))?;
            peer.write("libs/.complete", VERSION)?;
        }
        Ok(peer)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &'static str {
        ADDRESS
    }

    /// Formats an empty data directory; the command that starts the broker on core 0.
    pub(super) fn fresh(&self) -> Result<Vec<String>, String> {
        empty(&self.folder.join("data"))?;
        let jars = format!("{}/libs/*", self.folder.display());
        let properties = self
            .folder
            .join("server.properties")
            .to_string_lossy()
            .into_owned();
        let tool = ["-cp", &jars, "kafka.tools.StorageTool"];
        let id = process::output(program("java", &tool).arg("random-uuid"))?;
        let format = ["format", "--standalone", "-t", id.trim(), "-c", &properties];
        process::output(program("java", &tool).args(format))?;
        let logging = format!(
            "-Dlog4j2.configurationFile={}/log4j2.yaml",
            self.folder.display()
        );
        let words = [
            "taskset",
            "-c",
            "0",
            "java",
            "-Xms512m",
            "-Xmx1g",
            "-server",
            "-XX:ActiveProcessorCount=1",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:InitiatingHeapOccupancyPercent=35",
            "-XX:+ExplicitGCInvokesConcurrent",
            &logging,
            "-cp",
            &jars,
            "kafka.Kafka",
            &properties,
        ];
        Ok(words.map(str::to_owned).to_vec())
    }

    fn properties(&self) -> String {
        format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:19093\n\
             listeners=PLAINTEXT://{ADDRESS},CONTROLLER://127.0.0.1:19093\n\
             advertised.listeners=PLAINTEXT://{ADDRESS},CONTROLLER://127.0.0.1:19093\n\
             inter.broker.listener.name=PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}/data\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\nnum.network.threads=2\nnum.io.threads=2\n\
             log.segment.delete.delay.ms=1000\n",
            self.folder.display()
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

const LOGGING: &str = "\
Configuration:
  Appenders:
    Console:
      name: out
      target: SYSTEM_ERR
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        ref: out
";

fn pom() -> String {
    let dependency = |group: &str, name: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>\n"
        )
    };
    let kafka =
        ["kafka_2.13", "kafka-tools"].map(|name| dependency("org.apache.kafka", name, VERSION));
    let logging = ["log4j-slf4j-impl", "log4j-core"]
        .map(|name| dependency("org.apache.logging.log4j", name, LOG4J));
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>tidemill</groupId><artifactId>kafka-peer</artifactId><version>1</version>\n\
         <packaging>pom</packaging>\n<dependencies>\n{}{}</dependencies>\n</project>\n",
        kafka.concat(),
        logging.concat()
    )
}
