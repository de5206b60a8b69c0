//! The broker's settings: from the command line, else from a file, else defaults.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use tidemill_rt::runtime::EngineChoice;

/// Where Kafka clients connect when nothing else is said.
pub(crate) const KAFKA_ADDR_DEFAULT: &str = "127.0.0.1:9092";
/// Where the admin API listens when nothing else is said.
pub(crate) const ADMIN_ADDR_DEFAULT: &str = "127.0.0.1:9644";
/// Where data is kept when nothing else is said.
pub(crate) const DATA_DIR_DEFAULT: &str = "./tidemill-data";
/// Most shards a node may have.
pub(crate) const SHARDS_MAX: u16 = 256;

/// Which runtime to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuntimeName {
    /// io_uring where it works, else epoll
    Auto,
    /// io_uring (glommio), or an error
    Uring,
    /// epoll (tokio)
    Epoll,
}

impl RuntimeName {
    fn choice(self) -> EngineChoice {
        match self {
            RuntimeName::Auto => EngineChoice::Auto,
            RuntimeName::Uring => EngineChoice::Uring,
            RuntimeName::Epoll => EngineChoice::Epoll,
        }
    }
}

/// Settings of `tidemill start`; each may also stand in the file of `--config`.
#[derive(Debug, Default, Args)]
pub(crate) struct StartArgs {
    /// Settings file (TOML); keys are the long flags with '_' for '-'. Flags win over the file
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

/// The settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    data_dir: Option<PathBuf>,
    kafka_addr: Option<String>,
    advertised_kafka_addr: Option<String>,
    admin_addr: Option<String>,
    #[serde(default)]
    admin_name: Vec<String>,
    shards: Option<u16>,
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

/// Checked settings.
#[derive(Debug, Clone)]
pub(crate) struct BrokerConfig {
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
    /// Number of shards, if it was said.
    pub(crate) shards: Option<u16>,
    /// Which runtime.
    pub(crate) engine: EngineChoice,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("settings file {}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("{setting} '{value}' is no address: write HOST:PORT, for example {example}")]
    Address {
        setting: &'static str,
        value: String,
        example: &'static str,
    },
    #[error(
        "--admin-name '{0}' is no host name: write it without scheme and port, for example broker-1.example.com"
    )]
    AdminName(String),
    #[error("--shards {0} is out of range: write 1 to {SHARDS_MAX}")]
    Shards(u16),
    #[error(
        "--kafka-addr {0} listens on every interface, and clients cannot be told that address; \
         add --advertised-kafka-addr HOST:PORT with the name they know this machine by"
    )]
    AdvertiseWildcard(SocketAddr),
}

impl StartArgs {
    /// Merges flags, file and defaults, and checks the result.
    pub(crate) fn resolve(self) -> Result<BrokerConfig, ConfigError> {
        let file = match &self.config {
            None => FileConfig::default(),
            Some(path) => read_file(path)?,
        };
        let kafka = self.kafka_addr.or(file.kafka_addr);
        let kafka = kafka.unwrap_or_else(|| KAFKA_ADDR_DEFAULT.to_owned());
        let kafka_addr = address("--kafka-addr", &kafka, KAFKA_ADDR_DEFAULT)?;
        let admin = self.admin_addr.or(file.admin_addr);
        let admin = admin.unwrap_or_else(|| ADMIN_ADDR_DEFAULT.to_owned());
        let admin_addr = address("--admin-addr", &admin, ADMIN_ADDR_DEFAULT)?;
        let named = match self.admin_name.is_empty() {
            true => file.admin_name,
            false => self.admin_name,
        };
        let admin_names = admin_names(&admin, named)?;
        let advertised = match self.advertised_kafka_addr.or(file.advertised_kafka_addr) {
            Some(text) => host_port("--advertised-kafka-addr", &text)?,
            None if kafka_addr.ip().is_unspecified() => {
                return Err(ConfigError::AdvertiseWildcard(kafka_addr));
            }
            None => host_port("--kafka-addr", &kafka)?,
        };
        let shards = self.shards.or(file.shards);
        if let Some(n) = shards
            && !(1..=SHARDS_MAX).contains(&n)
        {
            return Err(ConfigError::Shards(n));
        }
        let data_dir = self.data_dir.or(file.data_dir);
        let runtime = self.runtime.or(file.runtime).unwrap_or(RuntimeName::Auto);
        Ok(BrokerConfig {
            data_dir: data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT)),
            kafka_addr,
            advertised,
            admin_addr,
            admin_names,
            shards,
            engine: runtime.choice(),
        })
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "read once, before any runtime exists"
)]
fn read_file(path: &Path) -> Result<FileConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|e| ConfigError::Parse {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

fn address(
    setting: &'static str,
    value: &str,
    example: &'static str,
) -> Result<SocketAddr, ConfigError> {
    let resolved = value.to_socket_addrs().ok().and_then(|mut a| a.next());
    resolved.ok_or_else(|| ConfigError::Address {
        setting,
        value: value.to_owned(),
        example,
    })
}

/// The names of the admin API: the host of `--admin-addr`, if it is a name, and what `--admin-name` says.
fn admin_names(admin_addr: &str, named: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    for name in named {
        if name.is_empty() || name.contains([':', '/', '@', ' ', '[', ']']) {
            return Err(ConfigError::AdminName(name));
        }
        names.push(name);
    }
    if let Ok(HostPort { host, .. }) = host_port("--admin-addr", admin_addr)
        && host.parse::<IpAddr>().is_err()
    {
        names.push(host);
    }
    Ok(names)
}

fn host_port(setting: &'static str, value: &str) -> Result<HostPort, ConfigError> {
    let parsed = value.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse().ok()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| HostPort {
            host: host.to_owned(),
            port,
        })
    });
    parsed.ok_or_else(|| ConfigError::Address {
        setting,
        value: value.to_owned(),
        example: "broker-1.example.com:9092",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_loopback() {
        let config = StartArgs::default().resolve().unwrap();
        assert!(config.kafka_addr.ip().is_loopback() && config.admin_addr.ip().is_loopback());
        assert_eq!(config.advertised.port, 9092);
    }

    #[test]
    fn wildcard_address_without_advertised_is_refused() {
        let args = |advertised: Option<&str>| StartArgs {
            kafka_addr: Some("0.0.0.0:9092".to_owned()),
            advertised_kafka_addr: advertised.map(str::to_owned),
            ..StartArgs::default()
        };
        assert!(matches!(
            args(None).resolve(),
            Err(ConfigError::AdvertiseWildcard(_))
        ));
        assert_eq!(args(Some("b:1")).resolve().unwrap().advertised.host, "b");
    }

    #[test]
    fn admin_api_is_known_by_the_name_in_its_address_and_by_those_given() {
        let names = |addr: &str, named: &[&str]| {
            let named = named.iter().map(|n| (*n).to_owned()).collect();
            admin_names(addr, named)
        };
        assert_eq!(names("localhost:9644", &[]).unwrap(), ["localhost"]);
        assert!(names("127.0.0.1:9644", &[]).unwrap().is_empty());
        assert!(names("[::1]:9644", &[]).unwrap().is_empty());
        assert_eq!(
            names("0.0.0.0:1", &["a.example", "b"]).unwrap(),
            ["a.example", "b"]
        );
        assert!(matches!(
            names("localhost:9644", &["http://a"]),
            Err(ConfigError::AdminName(_))
        ));
        let config = StartArgs {
            admin_name: vec!["broker.example".to_owned()],
            ..StartArgs::default()
        };
        assert_eq!(config.resolve().unwrap().admin_names, ["broker.example"]);
    }

    #[test]
    fn settings_file_with_a_misspelt_key_is_refused() {
        let e = toml::from_str::<FileConfig>("kafka_adr = 'x'").unwrap_err();
        assert!(e.to_string().contains("kafka_adr"));
    }
}
