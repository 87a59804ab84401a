//! The way to one host: name, connection, TLS, clock. Each step only if the one before it went well.

use std::time::{Duration, Instant};

use http::Method;
use url::Url;

use super::facts::HostFact;
use crate::config::Settings;
use crate::http::probe::{Greeting, greet};
use crate::model::Timestamp;

/// How long a name or a connection may take.
pub const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// Looks at the way to the host of `url`, which the configuration names in `key`.
pub(super) async fn look(url: &Url, key: &str, settings: &Settings) -> HostFact {
    let mut fact = HostFact {
        name: name(url),
        key: key.to_owned(),
        proxy: None,
        dns: None,
        tcp: None,
        tls: None,
        skew_ms: None,
        skew_max_ms: i64::try_from(settings.cycle.clock_skew_max.get().as_millis()).unwrap_or(i64::MAX),
    };
    // A proxy has a loopback of its own, see the transport.
    let proxy = settings.http.proxy.as_ref().filter(|_| !crate::http::is_loopback(url));
    let target = proxy.unwrap_or(url);
    fact.proxy = proxy.map(name);
    let (Some(host), Some(port)) = (target.host_str(), target.port_or_known_default()) else {
        fact.dns = Some(Err("the URL names no host".to_owned()));
        return fact;
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    let found = tokio::time::timeout(STEP_TIME_MAX, tokio::net::lookup_host((host.as_str(), port))).await;
    let addresses: Vec<std::net::SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            fact.dns = Some(Err(error.to_string()));
            return fact;
        }
        Err(_) => {
            fact.dns = Some(Err("no name server answered in time".to_owned()));
            return fact;
        }
    };
    fact.dns = Some(Ok(addresses.iter().map(std::net::SocketAddr::ip).collect()));
    let began = Instant::now();
    let connected = tokio::time::timeout(STEP_TIME_MAX, tokio::net::TcpStream::connect(addresses.as_slice())).await;
    match connected {
        Ok(Ok(_)) => fact.tcp = Some(Ok(began.elapsed())),
        Ok(Err(error)) => {
            fact.tcp = Some(Err(format!("no connection to {host} port {port}: {error}")));
            return fact;
        }
        Err(_) => {
            let seconds = STEP_TIME_MAX.as_secs();
            fact.tcp = Some(Err(format!("no connection to {host} port {port} within {seconds} s")));
            return fact;
        }
    }
    match greet(url, &settings.http, Method::GET).await {
        Ok(Greeting { server_time }) => {
            fact.tls = Some(Ok(url.scheme() == "https"));
            let now: Timestamp = jiff::Timestamp::now().into();
            fact.skew_ms = Some(server_time.map(|server| server.millis() - now.millis()));
        }
        Err(reason) => fact.tls = Some(Err(reason)),
    }
    fact
}

/// Host, and the port where it is not the usual one.
pub(super) fn name(url: &Url) -> String {
    let host = url.host_str().unwrap_or("no host");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
