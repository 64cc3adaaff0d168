//! `understudy pools`: what the proxy sees of its pools, as a table or as JSON.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use understudy_conf::{EndpointReport, Health, PoolReport, PoolState, Reports};

use crate::args::{Output, PoolsArgs};

/// The table is made for a terminal of this width.
const WIDTH: usize = 80;
/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long the admin address may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the pools once, or again and again.
pub(crate) fn run(args: &PoolsArgs) -> Result<()> {
    loop {
        let json = fetch(args.admin)?;
        let text = match args.output {
            Output::Json => json,
            Output::Table => {
                table(&serde_json::from_str(&json).context("the proxy's answer is not understood")?)
            }
        };
        let mut out = std::io::stdout().lock();
        if args.watch && args.output == Output::Table {
            // Clears the terminal.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        writeln!(out, "{}", text.trim_end())?;
        out.flush()?;
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(EVERY);
    }
}

fn fetch(admin: SocketAddr) -> Result<String> {
    let unreachable = || {
        format!(
            "no proxy answers on {admin}: start one with `--admin {admin}`, or name its address with `--admin`"
        )
    };
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).with_context(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /pools HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(unreachable)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!("{admin} answers, but is no admin address of understudy"),
    }
}

/// The table: one block per pool, at most 80 columns.
pub(crate) fn table(reports: &Reports) -> String {
    if reports.pools.is_empty() {
        return "no pools: no route forwards anywhere".to_owned();
    }
    reports.pools.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(pool: &PoolReport) -> String {
    let serving = match pool.state {
        PoolState::Primary => "primary".to_owned(),
        PoolState::Fallback => "FALLBACK".to_owned(),
        PoolState::Split => {
            let shares: Vec<String> =
                pool.load.iter().map(|(priority, share)| format!("{} {share} %", role(*priority))).collect();
            shares.join(", ")
        }
        PoolState::Panic => "ANY ENDPOINT (panic)".to_owned(),
        PoolState::Down => "NOTHING".to_owned(),
    };
    let mut text = format!("{}\n", cut(pool.pool.as_str(), WIDTH));
    let _ = writeln!(text, "  serving: {serving}");
    for (index, line) in wrap(&pool.reason, WIDTH - 11).into_iter().enumerate() {
        let _ = writeln!(text, "  {}{line}", if index == 0 { "why:     " } else { "         " });
    }
    if !pool.endpoints.is_empty() {
        let _ =
            writeln!(text, "  POOL      ENDPOINT                STATE              REQUESTS  FAILED  ACTIVE");
    }
    for endpoint in &pool.endpoints {
        text.push_str(&row(endpoint));
    }
    text
}

fn row(endpoint: &EndpointReport) -> String {
    let mut text = format!(
        "  {:<8}  {:<22}  {:<17}  {:>8}  {:>6}  {:>6}\n",
        role(endpoint.priority),
        cut(&endpoint.address, 22),
        state(endpoint),
        endpoint.requests,
        endpoint.failures,
        endpoint.active,
    );
    let mut notes = Vec::new();
    if let Some(hostname) = &endpoint.hostname {
        notes.push(hostname.clone());
    }
    if let Some(error) = &endpoint.last_error {
        notes.push(format!("last error: {error}"));
    }
    if !notes.is_empty() {
        for line in wrap(&notes.join("; "), WIDTH - 12) {
            let _ = writeln!(text, "            {line}");
        }
    }
    text
}

fn role(priority: u32) -> String {
    match priority {
        0 => "primary".to_owned(),
        1 => "fallback".to_owned(),
        other => format!("prio {other}"),
    }
}

fn state(endpoint: &EndpointReport) -> String {
    let health = &endpoint.health;
    let text = match health.state {
        Health::Healthy => "healthy".to_owned(),
        Health::Ejected => {
            let seconds = health.remaining_ms.unwrap_or(0) as f64 / 1000.0;
            format!("ejected {seconds:.1} s")
        }
        Health::Probing => "on trial, probing".to_owned(),
        Health::Trial => "on trial".to_owned(),
        Health::Ramping => format!("returning {} %", health.share.unwrap_or(0)),
        Health::Unhealthy => "unhealthy".to_owned(),
    };
    if health.obeyed { text } else { format!("{text} (!)") }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width - 1).collect();
    format!("{kept}…")
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(cut(word, width)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use understudy_conf::{EndpointHealth, PoolName};

    use super::*;

    fn endpoint(address: &str, priority: u32, state: Health) -> EndpointReport {
        EndpointReport {
            backend: "backend/default/active".to_owned(),
            address: address.to_owned(),
            hostname: Some("active.default.svc.cluster.local".to_owned()),
            priority,
            health: EndpointHealth {
                state,
                since_ms: None,
                remaining_ms: (state == Health::Ejected).then_some(8_240),
                share: (state == Health::Ramping).then_some(25),
                obeyed: true,
            },
            active: 3,
            requests: 12_345_678,
            failures: 1,
            ejections: 1,
            last_error: Some("connection refused".to_owned()),
        }
    }

    fn pool(state: PoolState) -> PoolReport {
        PoolReport {
            pool: PoolName::new("httproute/default/ha-example/rule/0").unwrap(),
            state,
            reason:
                "1 of 3 primary endpoints are healthy; 10.0.0.1:3000 ejected: connection refused, and so on"
                    .to_owned(),
            load: vec![(0, 46), (1, 54)],
            endpoints: vec![
                endpoint("10.0.0.1:3000", 0, Health::Ejected),
                endpoint("[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", 0, Health::Ramping),
                endpoint("10.0.0.9:3000", 1, Health::Probing),
                endpoint("10.0.0.10:3000", 1, Health::Unhealthy),
            ],
            without_endpoints: Vec::new(),
        }
    }

    #[test]
    fn the_table_fits_eighty_columns_and_says_what_matters() {
        for state in
            [PoolState::Primary, PoolState::Fallback, PoolState::Split, PoolState::Panic, PoolState::Down]
        {
            let text = table(&Reports { pools: vec![pool(state)], ..Reports::default() });
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
            }
            for needed in [
                "httproute/default/ha-example/rule/0",
                "ejected 8.2 s",
                "returning 25 %",
                "unhealthy",
                "connection refused",
            ] {
                assert!(text.contains(needed), "{needed} is missing in:\n{text}");
            }
        }
        let split = table(&Reports { pools: vec![pool(PoolState::Split)], ..Reports::default() });
        assert!(split.contains("primary 46 %, fallback 54 %"));
    }

    #[test]
    fn an_empty_table_says_so() {
        assert!(table(&Reports::default()).contains("no pools"));
    }
}
