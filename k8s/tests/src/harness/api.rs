//! The API without kubectl's own time: requests through `kubectl proxy`, which has the credentials.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http::Connection;
use super::kubectl::Kubectl;

/// The kinds of the Gateway API.
pub(crate) const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces";

/// A proxy to the API.
pub(crate) struct Api {
    address: SocketAddr,
    child: Child,
    // Kept open, so that the proxy can write to it.
    _stdout: BufReader<ChildStdout>,
}

impl Api {
    /// Starts a proxy on a port of its choice.
    pub(crate) fn start(kubectl: &Kubectl) -> Result<Self> {
        let mut child = kubectl.start(&["proxy", "--port=0"])?;
        let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        match address {
            Some(address) => Ok(Self { address, child, _stdout: stdout }),
            None => {
                child.kill()?;
                bail!("kubectl proxy said {line:?}")
            }
        }
    }

    /// A connection to it.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client { connection: Connection::open(self.address)? })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the API.
pub(crate) struct Client {
    connection: Connection,
}

impl Client {
    /// Creates an object in a collection.
    pub(crate) fn create(&mut self, collection: &str, object: &Value) -> Result<()> {
        self.send("POST", collection, "application/json", object)
    }

    /// Merges a change into an object.
    pub(crate) fn merge(&mut self, path: &str, change: &Value) -> Result<()> {
        self.send("PATCH", path, "application/merge-patch+json", change)
    }

    fn send(&mut self, method: &str, path: &str, media_type: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = self.connection.exchange(request.as_bytes())?;
        if response.status >= 300 {
            bail!("{method} {path}: {} {}", response.status, String::from_utf8_lossy(&response.body));
        }
        Ok(())
    }
}
