//! Cross-origin requests (filter CORS): what a browser is told, decided from the request alone.
//!
//! As in Envoy an allowed origin is given back as it came, also under `*`, so that the answer is the same whether
//! or not the request carries credentials; `Vary: Origin` keeps caches from mixing them up.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method};
use understudy_conf::Cors;

use crate::filters::HeaderEdit;
use crate::origin::OriginPattern;

/// A rule's answers to browsers, with everything parsed.
#[derive(Debug, Clone)]
pub struct CompiledCors {
    origins: Vec<OriginPattern>,
    methods: Allowed,
    headers: Allowed,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
    credentials: bool,
}

/// A list that a preflight request asks about.
#[derive(Debug, Clone)]
enum Allowed {
    /// The header is left out.
    Nothing,
    /// Whatever is asked for.
    Anything,
    List(HeaderValue),
}

impl CompiledCors {
    pub(crate) fn build(cors: &Cors) -> Result<Self, String> {
        let origins = cors.allow_origins.iter().map(|origin| OriginPattern::parse(origin));
        // Under credentials browsers take the wildcard for a name.
        let exposed = cors.expose_headers.iter().filter(|name| !(cors.allow_credentials && *name == "*"));
        let expose = match Allowed::build(&exposed.cloned().collect::<Vec<_>>())? {
            Allowed::Nothing => None,
            Allowed::Anything => Some(HeaderValue::from_static("*")),
            Allowed::List(list) => Some(list),
        };
        Ok(Self {
            origins: origins.collect::<Result<_, _>>()?,
            methods: Allowed::build(&cors.allow_methods)?,
            headers: Allowed::build(&cors.allow_headers)?,
            expose,
            max_age: HeaderValue::from(cors.max_age),
            credentials: cors.allow_credentials,
        })
    }

    /// Whether a request asks only what another one may do; such a request is answered by the gateway itself.
    #[must_use]
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        let has = |name| headers.get(name).is_some_and(|value: &HeaderValue| !value.is_empty());
        method == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Says in the answer to a preflight request what is allowed; nothing, if its origin is not.
    /// [`CompiledCors::apply`] is to follow, as for every answer.
    pub fn apply_preflight(&self, request: &HeaderMap, answer: &mut impl HeaderEdit) {
        if self.allowed_origin(request).is_none() {
            return;
        }
        for (allowed, asked, name) in [
            (&self.methods, ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
            (&self.headers, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
        ] {
            match allowed {
                Allowed::Nothing => {}
                Allowed::List(list) => answer.set(&name, list),
                Allowed::Anything => {
                    request.get_all(asked).iter().filter(|value| !value.is_empty()).for_each(|value| {
                        answer.add(&name, value);
                    });
                }
            }
        }
        answer.set(&ACCESS_CONTROL_MAX_AGE, &self.max_age);
    }

    /// Says in an answer whether the page that asked may read it. What an endpoint said itself is replaced, unless
    /// the page's origin is not allowed: then its answer stays as it is.
    pub fn apply(&self, request: &HeaderMap, answer: &mut impl HeaderEdit) {
        if !answer.lists(&VARY, "origin") && !answer.lists(&VARY, "*") {
            answer.add(&VARY, &HeaderValue::from_static("Origin"));
        }
        let Some(origin) = self.allowed_origin(request) else { return };
        answer.set(&ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            answer.set(&ACCESS_CONTROL_ALLOW_CREDENTIALS, &HeaderValue::from_static("true"));
        } else {
            answer.remove(&ACCESS_CONTROL_ALLOW_CREDENTIALS);
        }
        if let Some(expose) = &self.expose {
            answer.set(&ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }

    fn allowed_origin<'a>(&self, request: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = request.get(ORIGIN).filter(|origin| !origin.is_empty())?;
        self.origins.iter().any(|pattern| pattern.matches(origin.as_bytes())).then_some(origin)
    }
}

impl Allowed {
    fn build(names: &[String]) -> Result<Self, String> {
        if names.iter().any(|name| name == "*") {
            return Ok(Self::Anything);
        }
        for name in names {
            // Methods and names of headers are tokens alike.
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("{name:?} is neither a method nor a header's name"))?;
        }
        if names.is_empty() {
            return Ok(Self::Nothing);
        }
        let joined = names.join(", ");
        HeaderValue::try_from(joined).map(Self::List).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
