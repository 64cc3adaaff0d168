//! Running `wrk` and reading what it prints.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::program::{Program, on_path};

/// The Host of all requests.
pub(crate) const HOST: &str = "www.example.com";

/// What one run of wrk found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Load {
    /// Answers that came whole.
    pub(crate) requests: u64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Half of the requests were answered within so many microseconds.
    pub(crate) p50_us: f64,
    /// 99 % of the requests were answered within so many microseconds.
    pub(crate) p99_us: f64,
    /// Answers with a status other than 2xx and 3xx, and failures of sockets.
    pub(crate) bad: u64,
}

/// Checks that wrk is there.
///
/// # Errors
/// When it is not, with the command that installs it.
pub(crate) fn require() -> Result<()> {
    if !on_path("wrk") {
        bail!("wrk is missing; install it with: apt-get install wrk");
    }
    Ok(())
}

/// Loads an address with one thread for so many seconds.
///
/// # Errors
/// When wrk fails, or is not understood.
pub(crate) async fn run(
    address: SocketAddr,
    connections: u32,
    seconds: u32,
    cpu: Option<usize>,
) -> Result<Load> {
    let args = [
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        "--latency".to_owned(),
        "-H".to_owned(),
        format!("Host: {HOST}"),
        format!("http://{address}/test"),
    ];
    let text = Program::new("wrk", cpu).output(&args).await?;
    parse(&text).with_context(|| format!("wrk printed something unexpected:\n{text}"))
}

fn parse(text: &str) -> Result<Load> {
    let value_of = |label: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .map(str::trim)
            .with_context(|| format!("no {label}"))
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .context("no number of requests")?
        .0
        .parse()?;
    let mut bad = match text.lines().find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses:")) {
        Some(number) => number.trim().parse()?,
        None => 0,
    };
    if let Some(errors) = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors:")) {
        for number in errors.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()) {
            bad += number;
        }
    }
    Ok(Load {
        requests,
        rate: value_of("Requests/sec:")?.parse()?,
        p50_us: microseconds(value_of("50%")?)?,
        p99_us: microseconds(value_of("99%")?)?,
        bad,
    })
}

/// `1.23ms` is 1230.
fn microseconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("{text:?} is no duration")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Running 5s test @ http://127.0.0.1:1/test
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms   98.00us   5.20ms   92.10%
    Req/Sec    31.25k     1.02k   33.10k    78.00%
  Latency Distribution
     50%    0.98ms
     75%    1.03ms
     90%    1.10ms
     99%  950.00us
  155511 requests in 5.00s, 51.02MB read
";

    #[test]
    fn a_clean_run_is_read() {
        let load = parse(&format!("{TEXT}Requests/sec:  31100.55\nTransfer/sec:     10.20MB\n")).unwrap();
        let expected = Load { requests: 155_511, rate: 31_100.55, p50_us: 980.0, p99_us: 950.0, bad: 0 };
        assert_eq!(load, expected);
    }

    #[test]
    fn bad_answers_and_socket_errors_are_added_up() {
        let text = format!(
            "{TEXT}  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 10\nRequests/sec: 1\n"
        );
        assert_eq!(parse(&text).unwrap().bad, 17);
    }

    #[test]
    fn durations_are_read_in_every_unit_of_wrk() {
        for (text, expected) in [("980.00us", 980.0), ("1.5ms", 1500.0), ("2.00s", 2e6), ("1.00m", 6e7)] {
            assert!((microseconds(text).unwrap() - expected).abs() < 1e-6, "{text}");
        }
        assert!(microseconds("fast").is_err());
    }
}
