//! Statuses of gRPC, and the statuses of HTTP that they are counted as (rule O2). Pure.

use std::fmt;

/// A status of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcStatus(pub u16);

impl GrpcStatus {
    /// The call succeeded.
    pub const OK: Self = Self(0);
    /// The call was cancelled.
    pub const CANCELLED: Self = Self(1);
    /// Nobody knows what went wrong.
    pub const UNKNOWN: Self = Self(2);
    /// The call took too long.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// The caller may not do this.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// Something is used up.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// There is no such method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// Something broke inside.
    pub const INTERNAL: Self = Self(13);
    /// The service does not serve for now.
    pub const UNAVAILABLE: Self = Self(14);
    /// The caller did not say who it is.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// The status of HTTP that it is counted as.
    #[must_use]
    pub const fn http(self) -> u16 {
        match self.0 {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            // Unknown, internal, data loss, and numbers that mean nothing.
            _ => 500,
        }
    }

    /// What a status of HTTP is for a caller of gRPC.
    #[must_use]
    pub const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502..=504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }
}

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o2_every_grpc_status_has_its_status_of_http() {
        let expected =
            [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500];
        let statuses: Vec<u16> = (0..18).map(|status| GrpcStatus(status).http()).collect();
        assert_eq!(statuses, expected);
    }

    #[test]
    fn statuses_of_http_become_those_of_grpc_as_envoy_does_it() {
        let codes = [400, 401, 403, 404, 429, 502, 503, 504, 500, 408, 421];
        let statuses = codes.map(|code| GrpcStatus::of_http(code).0);
        assert_eq!(statuses, [13, 16, 7, 12, 14, 14, 14, 14, 2, 2, 2]);
    }
}
