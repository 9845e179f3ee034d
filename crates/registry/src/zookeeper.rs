//! ZooKeeper as the registry: one node per number, written if its version is the one
//! that was read; and an ephemeral node beside it that says that the holder is alive.

use crate::address::Parts;
use crate::error::Error;
use crate::holder::Terms;
use crate::store::{Entry, PATIENCE, Store, within};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use tokio::net::TcpStream;
use zookeeper_client::{
    Acls, Client, CreateMode, Error as ZooKeeperError, MultiReadResult, SessionState,
};

/// Where the ensemble is.
#[derive(Clone)]
pub struct ZooKeeperAddress {
    parts: Parts,
    /// As ZooKeeper's clients write it.
    ensemble: String,
}

impl fmt::Debug for ZooKeeperAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeper at {}, below {}", self.ensemble, self.parts.path)
    }
}

impl ZooKeeperAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = Parts::parse(text, 2181, &[])?;
        let hosts: Vec<_> =
            parts.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        Ok(Self { ensemble: hosts.join(","), parts })
    }

    pub(crate) fn open(self, terms: Terms) -> ZooKeeperStore {
        ZooKeeperStore { address: self, session: terms.presence(), client: None }
    }
}

/// The nodes below a path.
pub struct ZooKeeperStore {
    address: ZooKeeperAddress,
    /// How long a session outlasts its connection.
    session: Duration,
    client: Option<Client>,
}

/// As many at once as a message of a megabyte holds with ease.
const AT_ONCE: usize = 200;

impl ZooKeeperStore {
    /// An error as others may see it.
    pub(crate) fn hide(&self, error: Error) -> Error {
        match self.address.parts.password() {
            Some(password) => password.hide(error),
            None => error,
        }
    }

    async fn connect(&self, credentials: Option<&str>) -> Result<Client, ZooKeeperError> {
        let mut connector = Client::connector().with_session_timeout(self.session);
        if let Some(credentials) = credentials {
            connector = connector.with_auth("digest", credentials.as_bytes());
        }
        let client = connector.with_fail_eagerly().connect(&self.address.ensemble).await?;
        let options = CreateMode::Persistent.with_acls(self.acls());
        for kind in ["leases", "alive"] {
            client.mkdir(&self.path(kind), &options).await?;
        }
        Ok(client)
    }

    /// User and password as ZooKeeper's scheme "digest" wants them.
    async fn credentials(&self) -> Result<Option<String>, Error> {
        let Some((user, password)) = &self.address.parts.user else { return Ok(None) };
        Ok(Some(format!("{user}:{}", password.read().await?)))
    }

    /// The client does not say why it could not connect: each host by itself does.
    async fn unreachable(&self) -> Error {
        let mut reasons = Vec::new();
        for (host, port) in &self.address.parts.hosts {
            let reason = match TcpStream::connect(format!("{host}:{port}")).await {
                Ok(_) => "it accepts connections and does not answer".to_owned(),
                Err(error) => error.to_string(),
            };
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let place = format!("ZooKeeper at {}", self.address.ensemble);
        Error::unreachable(&place, reasons.join(", "))
    }

    fn acls(&self) -> Acls<'static> {
        if self.address.parts.user.is_some() { Acls::creator_all() } else { Acls::anyone_all() }
    }

    fn path(&self, kind: &str) -> String {
        format!("{}/{kind}", self.address.parts.path)
    }

    fn node(&self, kind: &str, number: u64) -> String {
        format!("{}/{kind}/{number:07}", self.address.parts.path)
    }

    fn error(&self, error: &ZooKeeperError) -> Error {
        let place = format!("ZooKeeper at {}", self.address.ensemble);
        match error {
            ZooKeeperError::NoAuth | ZooKeeperError::AuthFailed | ZooKeeperError::InvalidAcl => {
                Error::refused(&place, error)
            }
            _ => Error::unreachable(&place, error),
        }
    }

    /// Does something with the client, which is made anew after an error, and when its connection
    /// is lost: by itself it would take its time, in which another node waits for an objection.
    async fn call<T>(
        &mut self,
        work: impl AsyncFnOnce(&Self, &Client) -> Result<T, ZooKeeperError>,
    ) -> Result<T, Error> {
        let connected = |client: &Client| client.state() == SessionState::SyncConnected;
        let client = self.client.take().filter(connected);
        let place = format!("ZooKeeper at {}", self.address.ensemble);
        let (client, value) = within(&place, PATIENCE, async {
            let client = match client {
                Some(client) => client,
                None => match self.connect(self.credentials().await?.as_deref()).await {
                    Ok(client) => client,
                    Err(ZooKeeperError::NoHosts) => return Err(self.unreachable().await),
                    Err(error) => return Err(self.error(&error)),
                },
            };
            let mut state = client.state_watcher();
            let value = tokio::select! {
                value = work(self, &client) => value,
                _ = state.changed() => Err(ZooKeeperError::ConnectionLoss),
            };
            Ok((client, value.map_err(|error| self.error(&error))?))
        })
        .await?;
        self.client = Some(client);
        Ok(value)
    }

    fn number(&self, name: &str) -> Result<u64, Error> {
        let key = format!("{}/{name}", self.path("leases"));
        let number = name.parse().ok().filter(|&number| self.node("leases", number) == key);
        number.ok_or_else(|| Error::foreign(&key, "the key names no number"))
    }

    fn entry(&self, number: u64, value: &[u8], version: i32) -> Entry {
        Entry {
            number,
            revision: version.into(),
            value: String::from_utf8_lossy(value).into_owned(),
            alive: false,
            key: self.node("leases", number),
        }
    }
}

impl fmt::Debug for ZooKeeperStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Store for ZooKeeperStore {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        let (names, alive, found) = self
            .call(async |this, client| {
                let alive = client.list_children(&this.path("alive")).await?;
                let names = client.list_children(&this.path("leases")).await?;
                let mut found = Vec::new();
                for some in names.chunks(AT_ONCE) {
                    let mut reader = client.new_multi_reader();
                    for name in some {
                        reader.add_get_data(&format!("{}/{name}", this.path("leases")))?;
                    }
                    found.append(&mut reader.commit().await?);
                }
                Ok((names, alive, found))
            })
            .await?;
        let alive: BTreeSet<u64> = alive.iter().filter_map(|name| name.parse().ok()).collect();
        let mut entries = Vec::new();
        for (name, found) in names.iter().zip(found) {
            // One that was deleted meanwhile is none.
            let MultiReadResult::Data { data, stat } = found else { continue };
            let number = self.number(name)?;
            let entry = self.entry(number, &data, stat.version);
            entries.push(Entry { alive: alive.contains(&number), ..entry });
        }
        Ok(entries)
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        self.call(async |this, client| match client.get_data(&this.node("leases", number)).await {
            Ok((data, stat)) => Ok(Some(this.entry(number, &data, stat.version))),
            Err(ZooKeeperError::NoNode) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let version = revision.and_then(|revision| i32::try_from(revision).ok());
        self.call(async |this, client| {
            let (path, data) = (this.node("leases", number), value.as_bytes());
            let written = match version {
                Some(version) => client.set_data(&path, data, Some(version)).await.map(drop),
                None => {
                    let options = CreateMode::Persistent.with_acls(this.acls());
                    client.create(&path, data, &options).await.map(drop)
                }
            };
            match (written, version) {
                (Ok(()), _) => Ok(true),
                // Without a version it is the path above that is missing.
                (Err(ZooKeeperError::BadVersion | ZooKeeperError::NoNode), Some(_))
                | (Err(ZooKeeperError::NodeExists), None) => Ok(false),
                (Err(error), _) => Err(error),
            }
        })
        .await
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        self.call(async |this, client| {
            let path = this.node("alive", number);
            match client.check_stat(&path).await? {
                Some(stat) if stat.ephemeral_owner == client.session_id().0 => return Ok(()),
                // Of a session that has not yet ended, or of another holder that has.
                Some(_) => match client.delete(&path, None).await {
                    Ok(()) | Err(ZooKeeperError::NoNode) => (),
                    Err(error) => return Err(error),
                },
                None => (),
            }
            let options = CreateMode::Ephemeral.with_acls(this.acls());
            client.create(&path, b"", &options).await.map(drop)
        })
        .await
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        self.call(async |this, client| {
            match client.delete(&this.node("alive", number), None).await {
                Ok(()) | Err(ZooKeeperError::NoNode) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await
    }
}
