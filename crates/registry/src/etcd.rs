//! etcd v3 as the registry, by its JSON gateway (etcd's documentation, "gRPC gateway"): one
//! key per number, written in transactions that compare its revision; and one key beside
//! it that is bound to an etcd lease and says that the holder is alive.

use crate::address::Parts;
use crate::error::{Error, root_cause};
use crate::net::{ANSWER, Hosts, Spot, Target};
use crate::store::{Entry, Store};
use crate::tls::{self, Files};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use snowflake_core::tenancy::Terms;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

/// Where the cluster is.
#[derive(Clone)]
pub struct EtcdAddress {
    parts: Parts,
    tls: Option<Files>,
}

impl fmt::Debug for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd with keys below {}", self.parts.path)
    }
}

/// The options for TLS, as etcdctl calls them.
const FILES: tls::Names = ["cacert", "cert", "key"];

impl EtcdAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = Parts::parse(text, 2379, &FILES)?;
        let tls = Files::of(FILES, |name| parts.options.value(name).map(str::to_owned))?;
        Ok(Self { parts, tls })
    }

    pub(crate) fn open(self, terms: Terms) -> EtcdStore {
        let ttl = terms.presence().as_secs().max(1);
        let place = |(name, port): &(String, u16)| {
            (format!("etcd at {name}:{port}"), Target::Tcp(name.clone(), *port))
        };
        let hosts = Hosts::new(self.parts.hosts.iter().map(place));
        EtcdStore { address: self, hosts, ttl, session: None, lease: None }
    }
}

/// The keys below a prefix.
pub struct EtcdStore {
    address: EtcdAddress,
    hosts: Hosts,
    /// How long an announcement counts: seconds.
    ttl: u64,
    session: Option<Session>,
    /// The etcd lease, for which number it was announced.
    lease: Option<(String, u64)>,
}

/// What is kept of an etcd between calls.
struct Session {
    /// Its connections go to one address, with certificates as the files were.
    client: Client,
    url: String,
    place: String,
    /// What etcd gave for user and password, if it wanted them.
    token: Option<String>,
}

/// What etcd answers to the calls here, each of which fills a part of it. Read into this and no more,
/// an answer takes little more room than it has bytes.
#[derive(Deserialize)]
struct Answer {
    header: Option<Header>,
    result: Option<KeptAlive>,
    token: Option<String>,
    #[serde(default)]
    kvs: Vec<Pair>,
    #[serde(default)]
    succeeded: bool,
    #[serde(rename = "ID")]
    id: Option<String>,
}

/// What every answer has.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "cluster_id")]
    _cluster: String,
}

#[derive(Deserialize)]
struct KeptAlive {
    header: Header,
    #[serde(rename = "TTL", default)]
    ttl: String,
}

/// A key and its value, in base64.
#[derive(Deserialize)]
struct Pair {
    key: Box<str>,
    #[serde(deserialize_with = "number")]
    mod_revision: i64,
    #[serde(default)]
    value: Box<str>,
}

/// Numbers of 64 bits are texts in this JSON.
fn number<'de, D: Deserializer<'de>>(value: D) -> Result<i64, D::Error> {
    let text = Cow::<str>::deserialize(value)?;
    text.parse().map_err(D::Error::custom)
}

/// What it answers to one that it does not carry out.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: Option<String>,
    error: Option<String>,
}

/// How etcd refuses to give a token while it wants none.
const NO_AUTHENTICATION: &str = "authentication is not enabled";

impl EtcdAddress {
    /// Gets ready to speak with one address, and gets a token if etcd wants one.
    async fn session(&self, place: &str, host: usize, spot: &Spot) -> Result<Session, Error> {
        let (name, port) = &self.parts.hosts[host];
        // Proxies of the environment that the server was started in are for others. And a
        // password goes where the address says, and nowhere else.
        let mut builder = Client::builder().no_proxy().redirect(Policy::none());
        if let Spot::Tcp(address) = spot {
            builder = builder.resolve(name, *address);
        }
        let scheme = match &self.tls {
            Some(files) => {
                builder = builder.use_preconfigured_tls(files.read().await?).https_only(true);
                "https"
            }
            None => "http",
        };
        let client = builder.build();
        let client = client.map_err(|error| Error::unreachable(place, root_cause(&error)))?;
        let url = format!("{scheme}://{name}:{port}/v3");
        let mut session = Session { client, url, place: place.to_owned(), token: None };
        if let Some((name, password)) = &self.parts.user {
            let body = json!({"name": name, "password": password.read().await?});
            match session.send("auth/authenticate", &body).await {
                Ok(Answer { token: Some(token), .. }) => session.token = Some(token),
                Ok(_) => return Err(Error::no_registry(place, "it gives no token")),
                Err(Error::Refused { why, .. }) if why.contains(NO_AUTHENTICATION) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(session)
    }
}

impl Session {
    async fn send(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        // A token is a secret like a password.
        let hide =
            |error: Error| self.token.iter().fold(error, |error, token| error.without(token));
        self.exchange(path, body).await.map_err(hide)
    }

    async fn exchange(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        let place = &self.place;
        let failed = |error: reqwest::Error| {
            let error = error.without_url();
            if is_no_http(&error) {
                return Error::no_registry(place, root_cause(&error));
            }
            Error::unreachable(place, root_cause(&error))
        };
        let mut request = self.client.post(format!("{}/{path}", self.url)).json(body);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token);
        }
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut text = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(failed)? {
            if text.len() + more.len() > ANSWER {
                return Err(Error::no_registry(place, "its answer is too long"));
            }
            text.extend_from_slice(&more);
        }
        let nothing = || format!("{status}, and nothing that etcd would say");
        if status.is_success() {
            let answer: Answer = serde_json::from_slice(&text)
                .map_err(|error| Error::no_registry(place, format!("{}: {error}", nothing())))?;
            let result = answer.result.as_ref().map(|result| &result.header);
            return match answer.header.as_ref().or(result) {
                Some(_) => Ok(answer),
                None => Err(Error::no_registry(place, nothing())),
            };
        }
        let Refusal { message, error } = serde_json::from_slice(&text).unwrap_or_default();
        let Some(why) = message.or(error) else {
            return Err(Error::no_registry(place, nothing()));
        };
        Err(match status {
            // etcd without a leader, among others.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Error::unreachable(place, why)
            }
            _ => Error::refused(place, why),
        })
    }
}

/// Whether what was received is not HTTP.
fn is_no_http(error: &reqwest::Error) -> bool {
    root_cause(error).contains("invalid HTTP")
}

impl EtcdStore {
    /// An error as others may see it.
    pub(crate) fn hide(&self, error: Error) -> Error {
        match self.address.parts.password() {
            Some(password) => password.hide(error),
            None => error,
        }
    }

    /// One of etcd's calls.
    async fn call(&mut self, path: &str, body: &Value) -> Result<Answer, Error> {
        let Self { address, hosts, session, .. } = self;
        hosts
            .call(
                session,
                async |host, spot| address.session(hosts.place(host), host, spot).await,
                async |session| session.send(path, body).await,
            )
            .await
    }

    /// An etcd lease, which ends unless it is kept alive.
    async fn grant(&mut self) -> Result<String, Error> {
        let answer = self.call("lease/grant", &json!({"TTL": self.ttl.to_string()})).await?;
        answer.id.ok_or_else(|| {
            Error::no_registry(self.hosts.last_place(), "it granted a lease without a number")
        })
    }

    fn path(&self, kind: &str, number: u64) -> String {
        // As many digits as a number of 22 bits, the widest that any layout has, needs.
        format!("{}/{kind}/{number:07}", self.address.parts.path)
    }

    fn entry(&self, pair: Pair) -> Result<Entry, Error> {
        let key = text_of(&pair.key);
        let number = key.rsplit('/').next().and_then(|number| number.parse().ok());
        let number = number.filter(|&number| self.path("leases", number) == key);
        let number = number.ok_or_else(|| Error::foreign(&key, "the key names no number"))?;
        let (revision, value) = (pair.mod_revision, text_of(&pair.value));
        Ok(Entry { number, revision, value, alive: false })
    }

    async fn range(&mut self, body: &Value) -> Result<Vec<Pair>, Error> {
        Ok(self.call("kv/range", body).await?.kvs)
    }

    async fn below(&mut self, kind: &str) -> Result<Vec<Pair>, Error> {
        // All that begins with the path and a slash: '0' is the character after it.
        let path = format!("{}/{kind}", self.address.parts.path);
        let (first, end) = (encode(&format!("{path}/")), encode(&format!("{path}0")));
        self.range(&json!({"key": first, "range_end": end})).await
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Store for EtcdStore {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        let alive = self.below("alive").await?;
        let alive: BTreeSet<_> = alive
            .iter()
            .filter_map(|pair| text_of(&pair.key).rsplit('/').next()?.parse::<u64>().ok())
            .collect();
        let pairs = self.below("leases").await?;
        let entries = pairs.into_iter().map(|pair| {
            let entry = self.entry(pair)?;
            Ok(Entry { alive: alive.contains(&entry.number), ..entry })
        });
        entries.collect()
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        let key = encode(&self.path("leases", number));
        let pair = self.range(&json!({"key": key})).await?.into_iter().next();
        pair.map(|pair| self.entry(pair)).transpose()
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let key = encode(&self.path("leases", number));
        // Revision 0 is that of a key that does not exist.
        let revision = revision.unwrap_or(0).to_string();
        let body = json!({
            "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}],
            "success": [{"request_put": {"key": key, "value": encode(value)}}],
        });
        Ok(self.call("kv/txn", &body).await?.succeeded)
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        let mut lease = None;
        if let Some((last, _)) = self.lease.take_if(|(_, of)| *of == number) {
            let ttl = match self.call("lease/keepalive", &json!({"ID": last})).await {
                Ok(answer) => answer.result.and_then(|result| result.ttl.parse::<i64>().ok()),
                // It may be gone.
                Err(Error::Refused { .. }) => None,
                Err(error) => return Err(error),
            };
            lease = ttl.is_some_and(|ttl| ttl > 0).then_some(last);
        }
        let lease = match lease {
            Some(lease) => lease,
            None => self.grant().await?,
        };
        // Each time: somebody may have deleted it.
        let key = encode(&self.path("alive", number));
        self.call("kv/put", &json!({"key": key, "lease": lease})).await?;
        self.lease = Some((lease, number));
        Ok(())
    }

    fn key(&self, number: u64) -> String {
        self.path("leases", number)
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        let Some((lease, _)) = self.lease.take_if(|(_, of)| *of == number) else { return Ok(()) };
        self.call("lease/revoke", &json!({"ID": lease})).await.map(drop)
    }
}

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn text_of(base64: &str) -> String {
    let bytes = BASE64_STANDARD.decode(base64).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
