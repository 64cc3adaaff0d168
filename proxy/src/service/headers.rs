//! Pingora's headers for the filters to change.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};
use understudy_router::HeaderEdit;

/// A message whose headers filters change.
pub(super) struct Headers<'a, T>(pub(super) &'a mut T);

/// Pingora's two kinds of headers have the same methods and no trait in common.
macro_rules! header_edits {
    ($($message:ty),*) => {$(
        impl HeaderEdit for Headers<'_, $message> {
            fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
                // Both are valid already, and the number of headers is bounded by the message's own and the
                // filters'.
                let _ = self.0.insert_header(name.clone(), value.clone());
            }

            fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
                let _ = self.0.append_header(name.clone(), value.clone());
            }

            fn remove(&mut self, name: &HeaderName) {
                let _ = self.0.remove_header(name);
            }

            fn headers(&self) -> &HeaderMap {
                &self.0.headers
            }
        }
    )*};
}

header_edits!(RequestHeader, ResponseHeader);
