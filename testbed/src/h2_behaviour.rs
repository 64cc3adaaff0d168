//! What a backend of HTTP/2 does with a stream.

use std::time::Duration;

/// What a backend of HTTP/2 does with a stream. It reads the whole request first, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum H2Behaviour {
    /// 200 with the backend's name as its body.
    #[default]
    Name,
    /// 200 with the body of the request.
    RequestBody,
    /// This status, with the backend's name as its body.
    Status(u16),
    /// 200 with so many bytes of filling.
    Size(usize),
    /// 200 with the backend's name after a delay.
    Delayed(Duration),
    /// 103 with a `link`, then 200.
    Interim,
    /// 100 as soon as the headers came, then 200 with the body of the request.
    Continue,
    /// 200, the name, then these trailers.
    Trailers(Vec<(String, String)>),
    /// 200 at once, without reading the request's body.
    Early,
    /// No answer, ever, and nothing of the body is read.
    Hang,
    /// The stream is refused (`RST_STREAM` with `REFUSED_STREAM`) as soon as it comes.
    Refuse,
    /// The stream is reset with this code as soon as it comes.
    Reset(u32),
    /// 200, a piece of the body, then a reset.
    ResetMidBody,
    /// 200, a piece of the body, then silence.
    StallMidBody,
    /// A gRPC call: each message comes back as it came, then `grpc-status: 0` in the trailers. Nothing waits for the
    /// end of the request.
    Grpc,
    /// An endless gRPC stream: the backend's name as a message after each such pause.
    GrpcTicks(Duration),
    /// The whole answer in one block of headers, with this `grpc-status`.
    GrpcStatus(u16),
    /// `grpc-status` in trailers, after no message.
    GrpcTrailers(u16),
}
