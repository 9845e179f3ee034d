//! Where a registry is.

use crate::error::Error;
use crate::etcd::EtcdAddress;
use crate::file::{Care, File};
use crate::postgres::PostgresAddress;
use crate::store::Provider;
use crate::zookeeper::ZooKeeperAddress;
use percent_encoding::percent_decode_str;
use snowflake_core::tenancy::Terms;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a registry is, and how to get in. Reading one contacts nobody.
///
/// * `postgres://user:password@host:port/database?sslrootcert=/file`
/// * `etcd://user:password@host:port,host:port/prefix?cacert=/file&cert=/file&key=/file`
/// * `zookeeper://user:password@host:port,host:port/path`
///
/// In each, `user@` with `password_file=/file` keeps the password out of the address.
#[derive(Clone, Debug)]
pub enum Address {
    /// A database of a PostgreSQL server with the extension in it.
    Postgres(PostgresAddress),
    /// An etcd cluster.
    Etcd(EtcdAddress),
    /// A ZooKeeper ensemble.
    ZooKeeper(ZooKeeperAddress),
}

impl Address {
    /// Reads an address; else what is wrong with it, without the address itself: it may
    /// hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, _)) = text.split_once("://") else {
            return Err("an address begins with postgres://, etcd:// or zookeeper://".to_owned());
        };
        match scheme {
            "postgres" | "postgresql" => PostgresAddress::parse(text).map(Self::Postgres),
            "etcd" => EtcdAddress::parse(text).map(Self::Etcd),
            "zookeeper" => ZooKeeperAddress::parse(text).map(Self::ZooKeeper),
            _ => Err("the known registries are postgres://, etcd:// and zookeeper://".to_owned()),
        }
    }

    /// What stands there. It is contacted by its first call.
    pub fn provider(self, terms: Terms) -> Provider {
        match self {
            Self::Postgres(address) => Provider::Postgres(Box::new(address.open(terms))),
            Self::Etcd(address) => Provider::Etcd(address.open(terms)),
            Self::ZooKeeper(address) => Provider::ZooKeeper(address.open(terms)),
        }
    }
}

/// A password, or the file that holds it.
#[derive(Clone)]
pub(crate) struct Password {
    source: Source,
    /// The one that was read last: a registry may know it.
    read: Arc<Mutex<String>>,
}

#[derive(Clone)]
enum Source {
    Here(String),
    InFile(File),
}

/// The option that names the file.
pub(crate) const PASSWORD_FILE: &str = "password_file";

impl Password {
    /// One of both; else what is wrong.
    pub(crate) fn of(here: Option<String>, file: Option<&str>) -> Result<Self, String> {
        let source = match (here, file) {
            (Some(here), None) => Source::Here(here),
            (None, Some(file)) => Source::InFile(File::new(PASSWORD_FILE, file, Care::Password)),
            _ => {
                return Err(
                    "a user has a password: user:password@, or password_file=/file".to_owned()
                );
            }
        };
        Ok(Self { source, read: Arc::default() })
    }

    /// The password. A file is read anew each time.
    pub(crate) async fn read(&self) -> Result<String, Error> {
        let password = match &self.source {
            Source::Here(password) => password.clone(),
            Source::InFile(file) => file.password().await?,
        };
        self.last().clone_from(&password);
        Ok(password)
    }

    /// An error, should the registry have repeated in it the password that it was shown.
    pub(crate) fn hide(&self, error: Error) -> Error {
        error.without(&self.last())
    }

    fn last(&self) -> MutexGuard<'_, String> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands behind the scheme, up to the options, must not have a password with a bare slash in
/// it: what is behind that would be shown as a path.
pub(crate) fn refuse_half_a_password(rest: &str) -> Result<(), &'static str> {
    match rest.split_once('/') {
        Some((_, path)) if path.contains('@') => Err("a / in a password is written as %2F"),
        _ => Ok(()),
    }
}

/// The options behind an address: `name=value&name=value`.
#[derive(Clone)]
pub(crate) struct Options(Vec<(String, String)>);

impl Options {
    /// Those that are known, beside `password_file`, each of them once; else which one is not.
    pub(crate) fn parse(query: &str, known: &[&str]) -> Result<Self, String> {
        let known: Vec<_> = known.iter().copied().chain([PASSWORD_FILE]).collect();
        let mut options: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
            if !known.contains(&&*name) {
                // What a ? in a password begins is no option, and not to be shown.
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                let shown = !query.contains('@') && name.len() <= 40 && name.chars().all(is_name);
                let name = if shown { &*name } else { "..." };
                return Err(format!(
                    "there is no option {name}; the options are {}",
                    known.join(", ")
                ));
            }
            if options.iter().any(|(other, _)| *other == name) {
                return Err(format!("the option {name} is there twice"));
            }
            if value.is_empty() {
                return Err(format!("the option {name} is empty"));
            }
            options.push((name, value));
        }
        Ok(Self(options))
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(option, _)| option == name).map(|(_, value)| &**value)
    }
}

/// The parts of `scheme://user:password@host:port,host:port/path?name=value&name=value`.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) user: Option<(String, Password)>,
    /// Host and port of each.
    pub(crate) hosts: Vec<(String, u16)>,
    /// With its first slash and without the last one; at least one name.
    pub(crate) path: String,
    pub(crate) options: Options,
}

impl Parts {
    /// What is wrong is said without the text.
    pub(crate) fn parse(text: &str, default_port: u16, known: &[&str]) -> Result<Self, String> {
        let (_, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        refuse_half_a_password(rest)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let hosts = hosts.split(',').map(|host| host_and_port(host, default_port));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        let path = decode(path.trim_end_matches('/'))?;
        let bad = |name: &str| name.is_empty() || name == "." || name == "..";
        if path.split('/').any(bad) {
            return Err("it ends with a path, for example /snowflake".to_owned());
        }
        let options = Options::parse(query, known)?;
        let file = options.value(PASSWORD_FILE);
        let user = match user {
            Some(user) => {
                let (name, password) = match user.split_once(':') {
                    Some((name, password)) => (name, Some(decode(password)?)),
                    None => (user, None),
                };
                Some((decode(name)?, Password::of(password, file)?))
            }
            None if file.is_some() => return Err("a password needs a user: user@".to_owned()),
            None => None,
        };
        Ok(Self { user, hosts, path: format!("/{path}"), options })
    }

    pub(crate) fn password(&self) -> Option<&Password> {
        self.user.as_ref().map(|(_, password)| password)
    }
}

fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| "it is not UTF-8 after %XX has been replaced".to_owned())
}

fn host_and_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
    // An IPv6 address stands in brackets.
    let colon = text.rfind(':').filter(|&colon| text.rfind(']').is_none_or(|end| colon > end));
    let (host, port) = match colon {
        Some(colon) => {
            let port = text[colon + 1..].parse();
            (&text[..colon], port.map_err(|_| "a port is a number from 1 to 65535")?)
        }
        None => (text, default_port),
    };
    if host.is_empty() || port == 0 {
        return Err("it names no host".to_owned());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_several_hosts() {
        let text = "etcd://me:a%3Ab%40c@one,two:1234,[::1]:99,[::2]/a/b%20c/?cacert=%2Fx&key=y";
        let parts = Parts::parse(text, 2379, &["cacert", "key"]).unwrap();
        let Some((user, Password { source: Source::Here(password), .. })) = &parts.user else {
            panic!("no password");
        };
        assert_eq!((&**user, &**password), ("me", "a:b@c"));
        let hosts: Vec<_> = parts.hosts.iter().map(|(host, port)| (&**host, *port)).collect();
        assert_eq!(hosts, [("one", 2379), ("two", 1234), ("[::1]", 99), ("[::2]", 2379)]);
        assert_eq!(parts.path, "/a/b c");
        assert_eq!(parts.options.value("cacert"), Some("/x"));
        assert_eq!(parts.options.value("cert"), None);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (text, complaint) in [
            ("secret", "an address begins with postgres://, etcd:// or zookeeper://"),
            ("consul://secret", "the known registries are postgres://, etcd:// and zookeeper://"),
            ("postgres://a:secret@host", "it ends with a database, for example /ids"),
            (
                "postgres://a:secret@one,two/?sslmode=disable",
                "it ends with a database, for example /ids",
            ),
            ("etcd://a:secret@host", "it ends with a path, for example /snowflake"),
            ("etcd://a:secret@host/a//b", "it ends with a path, for example /snowflake"),
            ("etcd://a:secret@host/../b", "it ends with a path, for example /snowflake"),
            (
                "etcd://secret@host/a",
                "a user has a password: user:password@, or password_file=/file",
            ),
            (
                "etcd://a:secret@host/a?password_file=/x",
                "a user has a password: user:password@, or password_file=/file",
            ),
            ("etcd://host/a?password_file=/x", "a password needs a user: user@"),
            ("etcd://a:secret@host:secret/a", "a port is a number from 1 to 65535"),
            ("etcd://a:secret@host:0/a", "it names no host"),
            ("zookeeper://a:secret@one,,two/a", "it names no host"),
            ("etcd://a:%ff@host/a", "it is not UTF-8 after %XX has been replaced"),
            (
                "etcd://a:secret@host/a?ca=x",
                "there is no option ca; the options are cacert, cert, key, password_file",
            ),
            (
                "zookeeper://a:secret@host/a?cacert=x",
                "there is no option cacert; the options are password_file",
            ),
            (
                "postgres://a:secret@host/a?connect_timeout=3",
                "there is no option connect_timeout; the options are sslrootcert, sslcert, sslkey, sslmode, target_session_attrs, password_file",
            ),
            // It may be the end of a password.
            (
                "zookeeper://a:99/x?secret@host/a",
                "there is no option ...; the options are password_file",
            ),
            ("etcd://host/a?key=x&key=secret", "the option key is there twice"),
            ("etcd://host/a?key=", "the option key is empty"),
            (
                "postgres://host/a?target_session_attrs=secret",
                "target_session_attrs is read-write, or any",
            ),
        ] {
            assert_eq!(Address::parse(text).unwrap_err(), complaint, "{text}");
        }
    }
}
