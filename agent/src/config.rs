//! What an agent can be told: few keys, each with a default that works. The file and the flags have the same words.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use proto::host::usable_name;
use serde::Deserialize;

use crate::store::kind::{InvalidStore, StoreKind};
use crate::trust::PolicyFile;

/// imgd: moves container images between the hosts of a LAN.
#[derive(Debug, Clone, Parser)]
#[command(name = "imgd", version, about = "The agent that moves container images between the hosts of a LAN", long_about = None)]
pub struct Flags {
    /// Configuration file (TOML); its keys are the long flags, with _ for -
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where keys, members and staged bytes are kept [default: /var/lib/imgd]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket for imgctl [default: /run/imgd/imgd.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// UDP address for other hosts; port 0 is any; default: all addresses, port 7117
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Name of this host in its fleet [default: the short host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Where images are: auto, layout, docker, podman or containerd, with an address where it is not the usual one (README, "Stores")
    /// [default: auto, which is the engine that is installed, else layout]
    #[arg(long, value_name = "KIND[:ADDRESS]")]
    pub store: Option<String>,
    /// Address of another host; may be given several times
    #[arg(long = "peer", value_name = "ADDR")]
    pub peers: Vec<String>,
    /// Neither announce this host nor ask for others by multicast DNS
    #[arg(long)]
    pub no_mdns: bool,
    /// Use multicast DNS on this interface only; may be given several times
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Who may push and pull what here (TOML) [default: policy.toml beside the configuration file]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Group whose members may administer the fleet [default: imgd-admin, where this host has it, else whoever may use the socket]
    #[arg(long, value_name = "GROUP")]
    pub admin_group: Option<String>,
    /// Group whose members may look, but not send or change anything
    #[arg(long, value_name = "GROUP")]
    pub read_group: Option<String>,
    /// error, warn, info, debug or trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `imgd` does instead of serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// The audit log
    #[command(subcommand)]
    Audit(AuditCommand),
}

/// What can be done with the audit log.
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// Check that no line was changed, removed or put in
    Verify {
        /// Files, oldest first [default: those in the state directory: audit.log.4 to audit.log.1, where they are there, and audit.log]
        files: Vec<PathBuf>,
    },
}

/// The file. An unknown key is an error: a word that is not understood is a wish that is not fulfilled.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    name: Option<String>,
    store: Option<String>,
    #[serde(default)]
    peer: Vec<String>,
    no_mdns: Option<bool>,
    #[serde(default)]
    interface: Vec<String>,
    policy: Option<PathBuf>,
    admin_group: Option<String>,
    read_group: Option<String>,
    log_level: Option<String>,
}

/// What an agent runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keys, members, staged bytes, and the embedded store unless it is elsewhere.
    pub state_dir: PathBuf,
    /// Socket for `imgctl`.
    pub socket: PathBuf,
    /// UDP address for other hosts.
    pub listen: SocketAddr,
    /// Name of this host.
    pub name: String,
    /// The name of the host, where that is no DNS label and its name was made of it.
    pub made_of: Option<String>,
    /// Where images are.
    pub store: StoreKind,
    /// Configured addresses of others.
    pub peers: Vec<String>,
    /// Announce and ask by multicast DNS.
    pub mdns: bool,
    /// Only on these interfaces; all but container interfaces, when empty.
    pub interfaces: Vec<String>,
    /// Policy file.
    pub policy: PolicyFile,
    /// Group that administers the fleet.
    pub admin_group: Option<String>,
    /// Group that may look and do nothing else.
    pub read_group: Option<String>,
    /// Filter of the log.
    pub log_level: String,
}

/// Why an agent cannot run as it is told.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not valid, or has an unknown key.
    #[error("{path:?} is not valid: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The host name cannot be used.
    #[error("this host needs another name: set name = \"…\" in /etc/imgd/config.toml, or --name")]
    Name(#[from] proto::host::InvalidHostName),
    /// The kind of store is not known.
    #[error(transparent)]
    Store(#[from] InvalidStore),
}

const DEFAULT_FILE: &str = "/etc/imgd/config.toml";

impl Config {
    /// Flags go before the file, the file before the defaults.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let path = flags.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let file = match read(&path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && flags.config.is_none() => {
                File::default()
            }
            file => file?,
        };
        let state_dir = flags.state_dir.or(file.state_dir).unwrap_or_else(|| PathBuf::from("/var/lib/imgd"));
        let host_name = host_name();
        let named = flags.name.or(file.name);
        let label = host_name.split('.').next().unwrap_or_default();
        let made_of = (named.is_none() && !label.eq_ignore_ascii_case(&usable_name(&host_name))).then(|| host_name.clone());
        let name = named.unwrap_or_else(|| usable_name(&host_name));
        proto::host::check_name(&name)?;
        let store = flags.store.or(file.store).unwrap_or_else(|| "auto".to_owned());
        let beside = path.parent().unwrap_or(Path::new("/etc/imgd")).join("policy.toml");
        Ok(Self {
            socket: flags.socket.or(file.socket).unwrap_or_else(|| PathBuf::from("/run/imgd/imgd.sock")),
            listen: flags
                .listen
                .or(file.listen)
                .unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, crate::discovery::fixed::DEFAULT_PORT))),
            name,
            made_of,
            store: StoreKind::parse(&store, &state_dir)?,
            peers: if flags.peers.is_empty() { file.peer } else { flags.peers },
            mdns: !(flags.no_mdns || file.no_mdns.unwrap_or(false)),
            interfaces: if flags.interfaces.is_empty() { file.interface } else { flags.interfaces },
            policy: flags.policy.or(file.policy).map_or(PolicyFile::Default(beside), PolicyFile::Named),
            admin_group: flags.admin_group.or(file.admin_group),
            read_group: flags.read_group.or(file.read_group),
            log_level: flags.log_level.or(file.log_level).unwrap_or_else(|| "info".to_owned()),
            state_dir,
        })
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| ConfigError::Invalid { path: path.to_owned(), reason: error.to_string() })
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn load(file: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let fixed = ["imgd", "--config", path.to_str().unwrap()];
        let flags = Flags::parse_from(fixed.iter().chain(flags));
        Config::load(Flags { name: flags.name.or(Some("stapp01".to_owned())), ..flags })
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let config = load("listen = \"127.0.0.1:9\"\npeer = [\"a\", \"b\"]\nno_mdns = true", &["--listen", "127.0.0.1:0"]).unwrap();
        assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 0)));
        assert_eq!(config.peers, ["a", "b"]);
        assert!(!config.mdns);
        assert_eq!(config.store, StoreKind::Auto);
    }

    #[test]
    fn a_policy_that_was_named_is_known_as_such() {
        assert!(matches!(load("", &[]).unwrap().policy, PolicyFile::Default(path) if path.ends_with("policy.toml")));
        assert_eq!(load("policy = \"/p\"", &[]).unwrap().policy, PolicyFile::Named("/p".into()));
        assert_eq!(load("policy = \"/p\"", &["--policy", "/q"]).unwrap().policy, PolicyFile::Named("/q".into()));
    }

    #[test]
    fn groups_come_from_flags_or_the_file() {
        let config = load("admin_group = \"a\"\nread_group = \"r\"", &["--admin-group", "b"]).unwrap();
        assert_eq!((config.admin_group.as_deref(), config.read_group.as_deref()), (Some("b"), Some("r")));
        assert!(load("", &[]).unwrap().admin_group.is_none());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = load("listne = \"127.0.0.1:9\"", &[]).unwrap_err().to_string();
        assert!(error.contains("listne") && error.contains("config.toml"), "{error}");
    }

    #[test]
    fn unknown_stores_and_names_are_refused() {
        assert!(matches!(load("store = \"floppy\"", &[]), Err(ConfigError::Store(_))));
        assert!(matches!(load("", &["--name", "not a name"]), Err(ConfigError::Name(_))));
    }
}
