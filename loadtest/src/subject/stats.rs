//! What proxies say about themselves: how many requests they counted.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

/// A page of statistics.
pub(crate) struct Page {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) format: Format,
}

/// How a page is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    /// Prometheus text.
    Understudy,
    /// `name: number`.
    Envoy,
    /// stub_status.
    Nginx,
    /// CSV with a line of names.
    Haproxy,
}

impl Page {
    /// The page as it is.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) async fn text(&self) -> Result<String> {
        let answer = understudy_testbed::get(self.address, "statistics", self.path).await?;
        if answer.status != 200 {
            bail!("{}{} answers {}", self.address, self.path, answer.status);
        }
        Ok(answer.text())
    }

    /// Requests so far, and lines that the access log dropped, where it counts them.
    ///
    /// # Errors
    /// When the page is not there, or not understood.
    pub(crate) async fn read(&self) -> Result<(Option<u64>, Option<u64>)> {
        let text = self.text().await?;
        let requests = requests(self.format, &text).with_context(|| format!("no requests in:\n{text}"))?;
        Ok((Some(requests), number_after(&text, "understudy_access_log_dropped_total ")))
    }
}

fn requests(format: Format, text: &str) -> Option<u64> {
    match format {
        Format::Understudy => sum_of(text, "understudy_requests_total{"),
        Format::Envoy => number_after(text, "http.http.downstream_rq_2xx: "),
        // accepts, handled and requests stand in the third line.
        Format::Nginx => text.lines().nth(2)?.split_whitespace().nth(2)?.parse().ok(),
        Format::Haproxy => {
            let mut lines = text.lines();
            let names = lines.next()?.trim_start_matches("# ").split(',');
            let column = names.into_iter().position(|name| name == "hrsp_2xx")?;
            let line = lines.find(|line| line.starts_with("http,FRONTEND,"))?;
            line.split(',').nth(column)?.parse().ok()
        }
    }
}

/// The number in the line that begins so.
fn number_after(text: &str, start: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(start))?.trim().parse().ok()
}

/// The sum over all lines of a family, whatever their labels.
pub(crate) fn sum_of(text: &str, start: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(start)).peekable();
    lines.peek()?;
    Some(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_page_is_read() {
        let prometheus = "# HELP x\nunderstudy_requests_total{route=\"a\",code_class=\"2xx\"} 40\n\
            understudy_requests_total{route=\"none\",code_class=\"4xx\"} 2\nunderstudy_access_log_dropped_total 7\n";
        assert_eq!(requests(Format::Understudy, prometheus), Some(42));
        assert_eq!(number_after(prometheus, "understudy_access_log_dropped_total "), Some(7));
        assert_eq!(requests(Format::Envoy, "http.http.downstream_rq_2xx: 42\n"), Some(42));
        let status = "Active connections: 1 \nserver accepts handled requests\n 16 16 42 \nReading: 0\n";
        assert_eq!(requests(Format::Nginx, status), Some(42));
        let csv = "# pxname,svname,qcur,hrsp_2xx,x\nhttp,FRONTEND,,42,\nha,active,0,41,\n";
        assert_eq!(requests(Format::Haproxy, csv), Some(42));
        assert_eq!(requests(Format::Haproxy, "# pxname\n"), None);
        assert_eq!(sum_of("a 1", "b{"), None);
    }
}
