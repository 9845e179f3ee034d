//! etcd v3 as the registry, by its JSON gateway (etcd's documentation, "gRPC gateway"): one
//! key per number, written in transactions that compare its revision; and one key beside
//! it that is bound to an etcd lease and says that the holder is alive.

use crate::address::Parts;
use crate::error::{Error, root_cause};
use crate::holder::Terms;
use crate::store::{Entry, Store, share, within};
use crate::tls::{self, Files};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
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
        let tls = Files::of(FILES, |name| parts.option(name).map(str::to_owned))?;
        Ok(Self { parts, tls })
    }

    pub(crate) fn open(self, terms: Terms) -> EtcdStore {
        let ttl = terms.presence().as_secs().max(1);
        EtcdStore { address: self, ttl, client: None, token: None, first: 0, lease: None }
    }
}

/// The keys below a prefix.
pub struct EtcdStore {
    address: EtcdAddress,
    /// How long an announcement counts: seconds.
    ttl: u64,
    client: Option<Client>,
    /// What etcd gave for user and password.
    token: Option<String>,
    /// The endpoint that answered last.
    first: usize,
    /// The etcd lease, for which number it was announced.
    lease: Option<(String, u64)>,
}

/// What etcd answers to a call that it does not carry out.
struct Refusal {
    status: StatusCode,
    code: u64,
    message: String,
}

/// "Unauthenticated" in gRPC: the token has run out, or is of another run of the server.
const UNAUTHENTICATED: u64 = 16;

impl EtcdStore {
    /// An error as others may see it.
    pub(crate) fn hide(&self, error: Error) -> Error {
        match self.address.parts.password() {
            Some(password) => password.hide(error),
            None => error,
        }
    }

    async fn client(&mut self) -> Result<Client, Error> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        // Proxies of the environment that the server was started in are for others. And a
        // password goes where the address says, and nowhere else.
        let mut builder = Client::builder().no_proxy().redirect(Policy::none());
        if let Some(files) = &self.address.tls {
            builder = builder.use_preconfigured_tls(files.read().await?).https_only(true);
        }
        let client = builder.build().map_err(|error| self.unreachable(self.first, &error))?;
        Ok(self.client.insert(client).clone())
    }

    fn place(&self, endpoint: usize) -> String {
        let (host, port) = &self.address.parts.hosts[endpoint];
        format!("etcd at {host}:{port}")
    }

    fn unreachable(&self, endpoint: usize, error: &reqwest::Error) -> Error {
        Error::unreachable(&self.place(endpoint), root_cause(error))
    }

    /// Sends a request to one endpoint.
    async fn send(
        &mut self,
        endpoint: usize,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<Result<Value, Refusal>, Error> {
        let (host, port) = &self.address.parts.hosts[endpoint];
        let scheme = if self.address.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{host}:{port}/v3/{path}");
        let client = self.client().await?;
        let place = self.place(endpoint);
        let share = share(self.address.parts.hosts.len());
        let answer = within(&place, share, async {
            let mut request = client.post(url).json(body);
            if let Some(token) = token {
                request = request.header("Authorization", token);
            }
            let failed = |error: reqwest::Error| self.unreachable(endpoint, &error.without_url());
            let answer = request.send().await.map_err(failed)?;
            let status = answer.status();
            let answer = answer.bytes().await.map_err(failed)?;
            let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
            if status.is_success() {
                return Ok(Ok(value));
            }
            let message = value["message"].as_str().or(value["error"].as_str());
            let unknown = || format!("{status}, and nothing that etcd would say");
            let message = message.map_or_else(unknown, str::to_owned);
            let code = value["code"].as_u64().unwrap_or(0);
            Ok(Err(Refusal { status, code, message }))
        })
        .await;
        if answer.is_err() {
            // The certificates may be others now. And the server may be one that was put
            // back: it keeps a token of its future waiting until that has come.
            self.client = None;
            self.token = None;
        }
        answer
    }

    /// One of etcd's calls, at the first endpoint that answers.
    async fn call(&mut self, path: &str, body: &Value) -> Result<Value, Error> {
        let mut last = None;
        for turn in 0..self.address.parts.hosts.len() {
            let endpoint = (self.first + turn) % self.address.parts.hosts.len();
            match self.call_at(endpoint, path, body).await {
                Ok(value) => {
                    self.first = endpoint;
                    return Ok(value);
                }
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| Error::unreachable("etcd", "the address names no host")))
    }

    async fn call_at(&mut self, endpoint: usize, path: &str, body: &Value) -> Result<Value, Error> {
        let refused = |place: String, refusal: Refusal| match refusal.status {
            // etcd without a leader, among others.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Error::unreachable(&place, refusal.message)
            }
            _ => Error::refused(&place, refusal.message),
        };
        loop {
            let fresh = self.token.is_none();
            if let Some((name, password)) = self.address.parts.user.clone().filter(|_| fresh) {
                let body = json!({"name": name, "password": password.read().await?});
                let answer = self.send(endpoint, "auth/authenticate", &body, None).await?;
                let answer = answer.map_err(|refusal| refused(self.place(endpoint), refusal))?;
                self.token = answer["token"].as_str().map(str::to_owned);
            }
            let token = self.token.clone();
            match self.send(endpoint, path, body, token.as_deref()).await? {
                Ok(value) => return Ok(value),
                Err(refusal) if refusal.code == UNAUTHENTICATED && !fresh => self.token = None,
                Err(refusal) => return Err(refused(self.place(endpoint), refusal)),
            }
        }
    }

    /// An etcd lease, which ends unless it is kept alive.
    async fn grant(&mut self) -> Result<String, Error> {
        let answer = self.call("lease/grant", &json!({"TTL": self.ttl.to_string()})).await?;
        answer["ID"].as_str().map(str::to_owned).ok_or_else(|| {
            Error::refused(&self.place(self.first), "it granted a lease without a number")
        })
    }

    fn key(&self, kind: &str, number: u64) -> String {
        // As many digits as a number of 22 bits, the widest that any layout has, needs.
        format!("{}/{kind}/{number:07}", self.address.parts.path)
    }

    fn entry(&self, pair: &Value) -> Result<Entry, Error> {
        let key = text_of(&pair["key"]);
        let foreign = |why| Error::foreign(&key, why);
        let number = key.rsplit('/').next().and_then(|number| number.parse().ok());
        let number = number.filter(|&number| self.key("leases", number) == key);
        Ok(Entry {
            number: number.ok_or_else(|| foreign("the key names no number"))?,
            revision: number_of(&pair["mod_revision"])
                .ok_or_else(|| foreign("it has no revision"))?,
            value: text_of(&pair["value"]),
            alive: false,
            key,
        })
    }

    async fn range(&mut self, body: &Value) -> Result<Vec<Value>, Error> {
        let answer = self.call("kv/range", body).await?;
        Ok(answer["kvs"].as_array().cloned().unwrap_or_default())
    }

    async fn below(&mut self, kind: &str) -> Result<Vec<Value>, Error> {
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
            .filter_map(|pair| text_of(&pair["key"]).rsplit('/').next()?.parse::<u64>().ok())
            .collect();
        let pairs = self.below("leases").await?;
        let entries = pairs.iter().map(|pair| {
            let entry = self.entry(pair)?;
            Ok(Entry { alive: alive.contains(&entry.number), ..entry })
        });
        entries.collect()
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        let key = encode(&self.key("leases", number));
        let pairs = self.range(&json!({"key": key})).await?;
        pairs.first().map(|pair| self.entry(pair)).transpose()
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let key = encode(&self.key("leases", number));
        // Revision 0 is that of a key that does not exist.
        let revision = revision.unwrap_or(0).to_string();
        let body = json!({
            "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}],
            "success": [{"request_put": {"key": key, "value": encode(value)}}],
        });
        let answer = self.call("kv/txn", &body).await?;
        Ok(answer["succeeded"].as_bool().unwrap_or(false))
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        let mut lease = None;
        if let Some((last, _)) = self.lease.take_if(|(_, of)| *of == number) {
            let answer = self.call("lease/keepalive", &json!({"ID": last})).await?;
            let lasts = number_of(&answer["result"]["TTL"]).is_some_and(|ttl| ttl > 0);
            lease = lasts.then_some(last);
        }
        let lease = match lease {
            Some(lease) => lease,
            None => self.grant().await?,
        };
        // Each time: somebody may have deleted it.
        let key = encode(&self.key("alive", number));
        self.call("kv/put", &json!({"key": key, "lease": lease})).await?;
        self.lease = Some((lease, number));
        Ok(())
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        let Some((lease, _)) = self.lease.take_if(|(_, of)| *of == number) else { return Ok(()) };
        self.call("lease/revoke", &json!({"ID": lease})).await.map(drop)
    }
}

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn text_of(value: &Value) -> String {
    let bytes = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// 64-bit numbers are strings in this JSON.
fn number_of(value: &Value) -> Option<i64> {
    value.as_str().and_then(|text| text.parse().ok()).or(value.as_i64())
}
