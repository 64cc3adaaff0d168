//! Filters of a rule or of a reference, parsed once.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use understudy_conf::HttpFilter;

use crate::cors::CompiledCors;
use crate::mirror::CompiledMirror;
use crate::rewrite::CompiledRewrite;

/// Headers that a filter can change.
pub trait HeaderEdit {
    /// Replaces all values of a name by one.
    fn set(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Adds a value to those that a name has.
    fn add(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Removes all values of a name.
    fn remove(&mut self, name: &HeaderName);
    /// The headers as they are.
    fn headers(&self) -> &HeaderMap;

    /// Whether a header that is a list, separated by commas, has this member; case does not count.
    fn lists(&self, name: &HeaderName, member: &str) -> bool {
        let mut values = self.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(member)))
    }
}

impl HeaderEdit for HeaderMap {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.insert(name, value.clone());
    }

    fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }

    fn headers(&self) -> &HeaderMap {
        self
    }
}

/// The filters of a rule or of a reference, with every name and value parsed.
#[derive(Debug, Clone, Default)]
pub struct CompiledFilters {
    request: Vec<HeaderChange>,
    response: Vec<HeaderChange>,
    url_rewrite: Option<CompiledRewrite>,
    cors: Option<Box<CompiledCors>>,
    mirrors: Vec<CompiledMirror>,
}

impl CompiledFilters {
    /// Compiles filters, and says in a sentence each what was not valid and is left out. What has such a
    /// problem should not serve requests half-changed.
    #[must_use]
    pub fn build(filters: &[HttpFilter]) -> (Self, Vec<String>) {
        let mut built = Self::default();
        let mut problems = Vec::new();
        for filter in filters {
            match filter {
                HttpFilter::RequestHeaders { set, add, remove } => {
                    built.request.push(HeaderChange::build(set, add, remove, &mut problems));
                }
                HttpFilter::ResponseHeaders { set, add, remove } => {
                    built.response.push(HeaderChange::build(set, add, remove, &mut problems));
                }
                HttpFilter::UrlRewrite(_) if built.url_rewrite.is_some() => {
                    problems.push("a second URLRewrite filter cannot act beside the first".to_owned());
                }
                HttpFilter::UrlRewrite(rewrite) => match CompiledRewrite::build(rewrite) {
                    Ok(rewrite) => built.url_rewrite = Some(rewrite),
                    Err(problem) => problems.push(problem),
                },
                HttpFilter::RequestMirror(mirror) => match CompiledMirror::build(mirror) {
                    Ok(mirror) => built.mirrors.push(mirror),
                    Err(problem) => problems.push(problem),
                },
                HttpFilter::Cors(_) if built.cors.is_some() => {
                    problems.push("a second CORS filter cannot act beside the first".to_owned());
                }
                HttpFilter::Cors(cors) => match CompiledCors::build(cors) {
                    Ok(cors) => built.cors = Some(Box::new(cors)),
                    Err(problem) => problems.push(problem),
                },
            }
        }
        // Thousands of rules have one filter or none.
        built.request.shrink_to_fit();
        built.response.shrink_to_fit();
        built.mirrors.shrink_to_fit();
        (built, problems)
    }

    /// Whether nothing is changed on the way of a request or an answer, but for what CORS says. Mirrors change
    /// nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty() && self.url_rewrite.is_none()
    }

    /// Whether the answer's headers are changed.
    #[must_use]
    pub fn changes_response(&self) -> bool {
        !self.response.is_empty()
    }

    /// Who gets copies of requests.
    #[must_use]
    pub fn mirrors(&self) -> &[CompiledMirror] {
        &self.mirrors
    }

    /// What browsers are told about pages of other origins.
    #[must_use]
    pub fn cors(&self) -> Option<&CompiledCors> {
        self.cors.as_deref()
    }

    /// Changes the headers of a request. The filters act one after the other; within one, names are removed
    /// first, then set, then added to.
    pub fn apply_request(&self, headers: &mut impl HeaderEdit) {
        self.request.iter().for_each(|change| change.apply(headers));
    }

    /// Changes the headers of an answer, in the same order.
    pub fn apply_response(&self, headers: &mut impl HeaderEdit) {
        self.response.iter().for_each(|change| change.apply(headers));
    }

    /// How host and path are changed.
    #[must_use]
    pub fn url_rewrite(&self) -> Option<&CompiledRewrite> {
        self.url_rewrite.as_ref()
    }
}

#[derive(Debug, Clone)]
struct HeaderChange {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl HeaderChange {
    fn build(
        set: &[understudy_conf::HeaderValue],
        add: &[understudy_conf::HeaderValue],
        remove: &[String],
        problems: &mut Vec<String>,
    ) -> Self {
        let mut keep = |parsed: Result<_, String>| parsed.map_err(|problem| problems.push(problem)).ok();
        let set = set.iter().filter_map(|header| keep(parse_header(header))).collect();
        let add = add.iter().filter_map(|header| keep(parse_header(header))).collect();
        let remove =
            remove.iter().filter_map(|name| parse_name(name).map_err(|problem| problems.push(problem)).ok());
        Self { remove: remove.collect(), set, add }
    }

    fn apply(&self, headers: &mut impl HeaderEdit) {
        self.remove.iter().for_each(|name| headers.remove(name));
        self.set.iter().for_each(|(name, value)| headers.set(name, value));
        self.add.iter().for_each(|(name, value)| headers.add(name, value));
    }
}

fn parse_name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is no name of a header"))
}

fn parse_header(header: &understudy_conf::HeaderValue) -> Result<(HeaderName, HeaderValue), String> {
    let name = parse_name(&header.name)?;
    let value = HeaderValue::from_bytes(header.value.as_bytes())
        .map_err(|_| format!("the value {:?} of header {name} holds control characters", header.value))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> understudy_conf::HeaderValue {
        understudy_conf::HeaderValue { name: name.to_owned(), value: value.to_owned() }
    }

    fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn names_are_removed_then_set_then_added_to() {
        let (filters, problems) = CompiledFilters::build(&[HttpFilter::RequestHeaders {
            set: vec![header("x-set", "new"), header("x-fresh", "1")],
            add: vec![header("x-add", "2"), header("x-set", "more"), header("x-gone", "back")],
            remove: vec!["x-gone".to_owned(), "x-absent".to_owned()],
        }]);
        assert_eq!(problems, [""; 0]);
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-set", "a"), ("x-set", "b"), ("x-add", "1"), ("x-gone", "0"), ("x-kept", "k")]
        {
            headers.append(name, value.parse().unwrap());
        }
        filters.apply_request(&mut headers);
        assert_eq!(values(&headers, "x-set"), ["new", "more"]);
        assert_eq!(values(&headers, "x-fresh"), ["1"]);
        assert_eq!(values(&headers, "x-add"), ["1", "2"]);
        assert_eq!(values(&headers, "x-gone"), ["back"]);
        assert_eq!(values(&headers, "x-kept"), ["k"]);
    }

    #[test]
    fn filters_act_one_after_the_other_and_on_their_own_side_only() {
        let set = |value: &str| vec![header("x", value)];
        let (filters, _) = CompiledFilters::build(&[
            HttpFilter::RequestHeaders { set: set("1"), add: vec![], remove: vec![] },
            HttpFilter::ResponseHeaders { set: set("answer"), add: vec![], remove: vec![] },
            HttpFilter::RequestHeaders { set: set("2"), add: vec![], remove: vec![] },
        ]);
        assert!(!filters.is_empty() && filters.changes_response());
        let mut headers = HeaderMap::new();
        filters.apply_request(&mut headers);
        assert_eq!(values(&headers, "x"), ["2"]);
        filters.apply_response(&mut headers);
        assert_eq!(values(&headers, "x"), ["answer"]);
    }

    #[test]
    fn what_is_no_header_is_named() {
        let (_, problems) = CompiledFilters::build(&[HttpFilter::ResponseHeaders {
            set: vec![header("a b", "1"), header("x", "a\nb")],
            add: vec![header("", "1"), header("x", "é")],
            remove: vec!["ä".to_owned()],
        }]);
        assert_eq!(
            problems,
            [
                "\"a b\" is no name of a header",
                "the value \"a\\nb\" of header x holds control characters",
                "\"\" is no name of a header",
                "\"ä\" is no name of a header",
            ]
        );
        assert!(CompiledFilters::build(&[]).0.is_empty());
    }
}
