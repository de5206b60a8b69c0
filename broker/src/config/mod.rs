//! The broker's settings: from flags, else the environment, else a file, else defaults. The table of all settings is in
//! [`table`].

mod command;
mod fit;
mod kind;
mod machine;
mod print;
mod sources;
pub(crate) mod table;
mod topic_defaults;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tidemill_controller::configs::Defaults;
use tidemill_rt::runtime::EngineChoice;

pub(crate) use command::{ConfigCommand, run};
pub(crate) use sources::Stated;
pub(crate) use table::{SHARDS_MAX, Settings};

use kind::Written;
use sources::{Origin, Problem, Values};

/// The variable of the environment that sets `log.level`.
const LOG_VARIABLE: &str = "TIDEMILL_LOG";
/// Largest settings file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Which runtime to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RuntimeName {
    /// io_uring where it works, else epoll
    Auto,
    /// io_uring (glommio), or an error
    Uring,
    /// epoll (tokio)
    Epoll,
}

impl RuntimeName {
    fn name(self) -> &'static str {
        match self {
            RuntimeName::Auto => "auto",
            RuntimeName::Uring => "uring",
            RuntimeName::Epoll => "epoll",
        }
    }
}

/// Flags of `tidemill start`. Each stands for a setting of the file; everything else is set there.
#[derive(Debug, Default, Args)]
pub(crate) struct Flags {
    /// Settings file (TOML); flags win over it. 'tidemill config default' prints one with every setting
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for all data; made if missing [default: ./tidemill-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where Kafka clients connect [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    kafka_addr: Option<String>,
    /// The address Kafka clients are told, where it differs from --kafka-addr
    #[arg(long, value_name = "HOST:PORT")]
    advertised_kafka_addr: Option<String>,
    /// Where the admin API and metrics listen [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    admin_addr: Option<String>,
    /// A further name by which the admin API is reached; may be given several times
    #[arg(long = "admin-name", value_name = "NAME")]
    admin_name: Vec<String>,
    /// Threads that serve data, one a core; fixed when the data folder is made [default: one a core]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// How the broker talks to the kernel [default: auto]
    #[arg(long, value_enum, value_name = "NAME")]
    runtime: Option<RuntimeName>,
}

/// A host and a port, as clients are told them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Name or address.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
}

/// Checked settings, and what follows from them.
#[derive(Debug, Clone)]
pub(crate) struct BrokerConfig {
    /// Every setting.
    pub(crate) settings: Arc<Settings>,
    /// Which of them somebody set.
    pub(crate) stated: Stated,
    /// What a topic has that sets nothing itself.
    pub(crate) topic_defaults: Arc<Defaults>,
    /// Folder for all data.
    pub(crate) data_dir: PathBuf,
    /// Where Kafka clients connect.
    pub(crate) kafka_addr: SocketAddr,
    /// What Kafka clients are told.
    pub(crate) advertised: HostPort,
    /// Where the admin API listens.
    pub(crate) admin_addr: SocketAddr,
    /// Names by which the admin API is reached, beside addresses.
    pub(crate) admin_names: Vec<String>,
    /// Which runtime.
    pub(crate) engine: EngineChoice,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Settings that cannot be used, all of them.
    #[error("{}", told(file.as_deref(), problems))]
    Refused {
        file: Option<PathBuf>,
        problems: Vec<Problem>,
    },
}

fn told(file: Option<&Path>, problems: &[Problem]) -> String {
    let mut out = match file {
        Some(file) => format!("the settings of {} cannot be used:", file.display()),
        None => "these settings cannot be used:".to_owned(),
    };
    for problem in problems {
        out.push_str(&format!("\n  {problem}"));
    }
    out
}

impl Flags {
    /// Merges flags, environment, file and defaults, and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`], with everything that is wrong.
    pub(crate) fn resolve(&self) -> Result<BrokerConfig, ConfigError> {
        resolve_values(self)?.checked(self)
    }

    /// Puts what was said over `values`.
    fn over(&self, values: &mut Values) {
        let mut text = |section, key, flag, value: Option<String>| {
            if let Some(value) = value {
                values.given(section, key, Written::Text(value), Origin::Flag(flag));
            }
        };
        let data_dir = self.data_dir.as_ref().map(|d| d.display().to_string());
        text("storage", "data_dir", "--data-dir", data_dir);
        text("kafka", "addr", "--kafka-addr", self.kafka_addr.clone());
        let advertised = self.advertised_kafka_addr.clone();
        text(
            "kafka",
            "advertised_addr",
            "--advertised-kafka-addr",
            advertised,
        );
        text("admin", "addr", "--admin-addr", self.admin_addr.clone());
        text(
            "node",
            "shards",
            "--shards",
            self.shards.map(|n| n.to_string()),
        );
        let runtime = self.runtime.map(|r| r.name().to_owned());
        text("node", "runtime", "--runtime", runtime);
        if !self.admin_name.is_empty() {
            let names = Written::List(self.admin_name.clone());
            values.given("admin", "names", names, Origin::Flag("--admin-name"));
        }
    }
}

/// Every value and where it comes from; what is wrong with single values is noted in it.
fn resolve_values(flags: &Flags) -> Result<Values, ConfigError> {
    let mut values = Values::new();
    if let Some(path) = &flags.config {
        let text = read_file(path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        values.file(&text);
    }
    if let Ok(level) = std::env::var(LOG_VARIABLE) {
        let origin = Origin::Environment(LOG_VARIABLE);
        values.given("log", "level", Written::Text(level), origin);
    }
    flags.over(&mut values);
    machine::Machine::here().fit(&mut values);
    Ok(values)
}

/// What `settings` ask for and this machine cannot give, in words.
pub(crate) fn warnings(settings: &Settings) -> Vec<String> {
    machine::Machine::here().warnings(settings)
}

#[allow(
    clippy::disallowed_methods,
    reason = "read once, before any runtime exists"
)]
fn read_file(path: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > FILE_BYTES_MAX {
        let message =
            format!("it has {length} bytes, and no settings file has more than {FILE_BYTES_MAX}");
        return Err(std::io::Error::other(message));
    }
    std::fs::read_to_string(path)
}

impl Values {
    /// Checks what concerns several settings, or more than their range, and puts the result together.
    fn checked(&self, flags: &Flags) -> Result<BrokerConfig, ConfigError> {
        let settings = self.settings();
        let mut wrong = self.problems();
        let mut or_told = |name: (&str, &str), problem: String| {
            let (section, key) = name;
            let (origin, message) = (
                self.get(section, key).1.clone(),
                format!("{section}.{key}: {problem}"),
            );
            wrong.push(Problem { origin, message });
        };
        let kafka_addr = address(&settings.kafka.addr).unwrap_or_else(|problem| {
            or_told(("kafka", "addr"), problem);
            SocketAddr::from(([127, 0, 0, 1], 0))
        });
        let admin_addr = address(&settings.admin.addr).unwrap_or_else(|problem| {
            or_told(("admin", "addr"), problem);
            SocketAddr::from(([127, 0, 0, 1], 0))
        });
        let advertised = advertised(&settings, kafka_addr).unwrap_or_else(|(name, problem)| {
            or_told(name, problem);
            HostPort {
                host: String::new(),
                port: 0,
            }
        });
        let admin_names =
            admin_names(&settings.admin.addr, &settings.admin.names).unwrap_or_else(|problem| {
                or_told(("admin", "names"), problem);
                Vec::new()
            });
        for (name, problem) in contradictions(&settings) {
            or_told(name, problem);
        }
        let stated = self.stated();
        let topic_defaults =
            topic_defaults::of(&settings, &stated).unwrap_or_else(|(name, problem)| {
                or_told(name, problem);
                Defaults::default()
            });
        if !wrong.is_empty() {
            return Err(ConfigError::Refused {
                file: flags.config.clone(),
                problems: wrong,
            });
        }
        let engine = match settings.node.runtime.as_str() {
            "uring" => EngineChoice::Uring,
            "epoll" => EngineChoice::Epoll,
            _ => EngineChoice::Auto,
        };
        Ok(BrokerConfig {
            data_dir: PathBuf::from(&settings.storage.data_dir),
            settings: Arc::new(settings),
            stated,
            topic_defaults: Arc::new(topic_defaults),
            kafka_addr,
            advertised,
            admin_addr,
            admin_names,
            engine,
        })
    }
}

/// A section and a key in it.
type Name = (&'static str, &'static str);

/// Settings that do not go together, and values that are more than their range.
fn contradictions(settings: &Settings) -> Vec<(Name, String)> {
    let mut out = Vec::new();
    let transforms = &settings.transforms;
    if transforms.instance_memory > transforms.instance_memory_max {
        let problem = "is more than transforms.instance_memory_max".to_owned();
        out.push((("transforms", "instance_memory"), problem));
    }
    if transforms.instance_memory_max > transforms.memory as u64 {
        let problem =
            "is more than transforms.memory, in which all instances of a shard must fit".to_owned();
        out.push((("transforms", "instance_memory_max"), problem));
    }
    if transforms.call_time > transforms.call_time_max {
        out.push((
            ("transforms", "call_time"),
            "is more than transforms.call_time_max".to_owned(),
        ));
    }
    if settings.memory.answers < 2 * settings.kafka.fetch_size_max as u64 {
        let problem = "is less than two answers of kafka.fetch_size_max".to_owned();
        out.push((("memory", "answers"), problem));
    }
    if settings.storage.flush_size > settings.memory.unflushed / 2 {
        let problem =
            "is more than half of memory.unflushed: writes would wait for every flush".to_owned();
        out.push((("storage", "flush_size"), problem));
    }
    if let Err(problem) = crate::log::filter(&settings.log.level) {
        out.push((("log", "level"), problem));
    }
    out
}

/// What Kafka clients are told.
fn advertised(settings: &Settings, listening: SocketAddr) -> Result<HostPort, (Name, String)> {
    match &settings.kafka.advertised_addr {
        Some(text) => host_port(text).map_err(|e| (("kafka", "advertised_addr"), e)),
        None if listening.ip().is_unspecified() => Err((
            ("kafka", "addr"),
            format!(
                "{listening} listens on every interface, and clients cannot be told that address; add \
                 --advertised-kafka-addr HOST:PORT (kafka.advertised_addr) with the name they know this machine by"
            ),
        )),
        None => host_port(&settings.kafka.addr).map_err(|e| (("kafka", "addr"), e)),
    }
}

fn address(value: &str) -> Result<SocketAddr, String> {
    if is_without_port(value) {
        return Err(format!(
            "'{value}' has no port: write HOST:PORT, for example {value}:9092"
        ));
    }
    let resolved = value.to_socket_addrs().ok().and_then(|mut a| a.next());
    resolved.ok_or_else(|| {
        format!(
            "'{value}' is no address of this machine: write HOST:PORT, for example 127.0.0.1:9092"
        )
    })
}

/// Whether a port is all that is missing: a name, or an address, of IPv6 in brackets.
fn is_without_port(value: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let v6 = value.strip_prefix('[').and_then(|v6| v6.strip_suffix(']'));
    match v6 {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !value.is_empty() && value.chars().all(name),
    }
}

/// The names of the admin API: the host of its address, if it is a name, and those that were named.
fn admin_names(admin_addr: &str, named: &[String]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for name in named {
        if name.is_empty() || name.contains([':', '/', '@', ' ', '[', ']']) {
            return Err(format!(
                "'{name}' is no host name: write it without scheme and port, for example broker-1.example.com"
            ));
        }
        names.push(name.clone());
    }
    if let Ok(HostPort { host, .. }) = host_port(admin_addr)
        && host.parse::<IpAddr>().is_err()
    {
        names.push(host);
    }
    Ok(names)
}

fn host_port(value: &str) -> Result<HostPort, String> {
    let parsed = value.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse().ok()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| HostPort {
            host: host.to_owned(),
            port,
        })
    });
    parsed.ok_or_else(|| {
        format!("'{value}' is no address: write HOST:PORT, for example broker-1.example.com:9092")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(flags: &Flags) -> String {
        flags.resolve().expect_err("refused").to_string()
    }

    #[test]
    fn defaults_are_loopback() {
        let config = Flags::default().resolve().unwrap();
        assert!(config.kafka_addr.ip().is_loopback() && config.admin_addr.ip().is_loopback());
        assert_eq!(config.advertised.port, 9092);
    }

    #[test]
    fn wildcard_address_without_advertised_is_refused() {
        let args = |advertised: Option<&str>| Flags {
            kafka_addr: Some("0.0.0.0:9092".to_owned()),
            advertised_kafka_addr: advertised.map(str::to_owned),
            ..Flags::default()
        };
        assert!(refused(&args(None)).contains("--advertised-kafka-addr HOST:PORT"));
        assert_eq!(args(Some("b:1")).resolve().unwrap().advertised.host, "b");
    }

    #[test]
    fn problems_of_flags_and_across_settings_are_told_together() {
        let flags = Flags {
            kafka_addr: Some("nowhere".to_owned()),
            shards: Some(0),
            ..Flags::default()
        };
        let told = refused(&flags);
        assert!(
            told.contains("--kafka-addr: kafka.addr: 'nowhere' has no port: write HOST:PORT"),
            "{told}"
        );
        assert!(
            told.contains("--shards: node.shards = \"0\" cannot be: write a number from 1 to 256"),
            "{told}"
        );
    }

    #[test]
    fn address_without_a_port_is_told_so() {
        for value in ["localhost", "10.0.0.1", "[::1]"] {
            assert!(
                address(value).unwrap_err().contains("has no port"),
                "{value}"
            );
        }
        for value in ["", "::1", "a b", "localhost:x", "http://localhost"] {
            assert!(
                address(value).unwrap_err().contains("is no address"),
                "{value}"
            );
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let mut values = Values::new();
        values.file("[transforms]\ninstance_memory = '128 MiB'\ninstance_memory_max = '64 MiB'\n[log]\nlevel = 'infoo'\n");
        let told = values
            .checked(&Flags::default())
            .expect_err("refused")
            .to_string();
        assert!(
            told.contains("transforms.instance_memory: is more than"),
            "{told}"
        );
        assert!(told.contains("log.level: 'infoo' is no level"), "{told}");
    }

    #[test]
    fn admin_api_is_known_by_the_name_in_its_address_and_by_those_given() {
        let names = |addr: &str, named: &[&str]| {
            let named: Vec<String> = named.iter().map(|n| (*n).to_owned()).collect();
            admin_names(addr, &named)
        };
        assert_eq!(names("localhost:9644", &[]).unwrap(), ["localhost"]);
        assert!(names("127.0.0.1:9644", &[]).unwrap().is_empty());
        assert!(names("[::1]:9644", &[]).unwrap().is_empty());
        assert_eq!(
            names("0.0.0.0:1", &["a.example", "b"]).unwrap(),
            ["a.example", "b"]
        );
        assert!(names("localhost:9644", &["http://a"]).is_err());
        let flags = Flags {
            admin_name: vec!["broker.example".to_owned()],
            ..Flags::default()
        };
        assert_eq!(flags.resolve().unwrap().admin_names, ["broker.example"]);
    }
}
