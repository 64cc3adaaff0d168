//! One attempt over HTTP/2: a stream on a connection that other requests share.
//!
//! Purpose: what Pingora does for an attempt over HTTP/1.1, with the same time limits and the same decisions. Inputs:
//! the session, an endpoint that speaks HTTP/2. Outputs: the answer, written to the client; or the outcome, told to
//! the engine, and an error that says whether there is another attempt.
//!
//! Both directions move at once. The request's body is read only as fast as the endpoint takes it, and the answer
//! only as fast as the client does; a limit that is reached ends this stream and no other.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};
use pingora_core::protocols::http::HttpTask;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::sync::Notify;
use understudy_engine::{ConnectFailure, Exchange, Failure, Member};

use super::attempt::has_answer;
use super::context::Context;
use super::deadline::{Armed, Expired};
use super::peer::speaks_h2;
use super::upload::{Upload, Wants};
use super::{Service, failure, to_h2};
use crate::upstream_h2::{Settings, Stream, Wanted, open_stream};
use crate::upstream_tls::{TlsGuard, is_client_certificate_refused_in_h2};
use crate::world::PoolTable;

/// Where a request went.
pub(super) enum Forwarded {
    /// An endpoint of HTTP/1.1 was chosen; Pingora brings it there.
    To(Box<HttpPeer>),
    /// The client has its answer.
    Answered,
}

/// Why a stream ended too early.
enum Broken {
    /// The client's side, or something of ours: as it is.
    Own(Box<Error>),
    /// The answer was turned down for another attempt.
    TurnedDown(Box<Error>),
    /// A limit was reached.
    Limit,
    /// The endpoint, or the way to it.
    Endpoint(Failure),
}

impl Service {
    /// Makes attempts until an endpoint of HTTP/2 has answered, or one of HTTP/1.1 is next.
    pub(super) async fn forward(&self, session: &mut Session, ctx: &mut Context) -> Result<Forwarded> {
        ctx.is_grpc = super::grpc::is_call(session.req_header());
        loop {
            let peer = self.choose(session, ctx).await?;
            if !speaks_h2(&peer) {
                return Ok(Forwarded::To(peer));
            }
            match self.attempt_over_h2(session, ctx, &peer).await {
                Ok(()) => return Ok(Forwarded::Answered),
                Err(error) if error.retry() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt_over_h2(&self, session: &mut Session, ctx: &mut Context, peer: &HttpPeer) -> Result<()> {
        let stream = match self.stream_to(ctx, peer).await {
            Ok(stream) => stream,
            Err(failed) => {
                let mut error = Error::new_up(ErrorType::ConnectError);
                error.set_retry(self.connection_failed(session, ctx, failed));
                return Err(error);
            }
        };
        ctx.attempt.connecting_since = None;
        let told = Arc::new(Notify::new());
        self.stream_begun(ctx, stream.reused, told.clone());
        let broken = match self.run(session, ctx, peer, stream, &told).await {
            Ok(()) => return Ok(()),
            Err(broken) => broken,
        };
        let armed = ctx.attempt.armed.take();
        Err(self.stream_failed(session, ctx, broken, armed.as_ref().and_then(Armed::expired)))
    }

    /// A place on a connection, within the attempt's own limits.
    async fn stream_to(&self, ctx: &Context, peer: &HttpPeer) -> Result<Stream, ConnectFailure> {
        let table = ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref()).ok_or(ConnectFailure::Other)?;
        let settings = Settings {
            http2: table.http2,
            idle: table.limits.connection_idle,
            max_age: table.limits.max_connection,
        };
        let wanted = Wanted {
            settings,
            guard: ctx
                .exchange
                .as_ref()
                .and_then(Exchange::current)
                .and_then(|(member, _)| self.guard_of(member, table)),
            connect: table.limits.connect,
            max_requests: table.pool.spec().circuit_breaker.max_requests_per_connection,
        };
        let limit = peer.options.total_connection_timeout.unwrap_or(Duration::MAX);
        tokio::time::timeout(limit, open_stream(&self.connector, peer, &wanted))
            .await
            .unwrap_or(Err(ConnectFailure::TimedOut))
    }

    /// What the connection to an endpoint has to be, where it is one over TLS.
    pub(super) fn guard_of(&self, member: &Member, table: &PoolTable) -> Option<TlsGuard> {
        member.spec.identity.tls.as_ref()?;
        Some(TlsGuard {
            endpoint: member.spec.identity.clone(),
            policy: table.tls.get(member.reference)?.clone()?,
            security: self.security.clone(),
            clock: self.clock,
            connector: self.connector.clone(),
        })
    }

    fn stream_failed(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        broken: Broken,
        limit: Option<Expired>,
    ) -> Box<Error> {
        let failed = match (broken, limit) {
            (Broken::Own(mut error), _) => {
                error.set_retry(false);
                return error;
            }
            (Broken::TurnedDown(mut error), _) => {
                error.set_retry(true);
                return error;
            }
            (Broken::Limit, Some(limit)) => {
                let mut error = Error::new_up(ErrorType::ReadTimedout);
                error.set_retry(false);
                return self.limit_reached(session, ctx, error, limit);
            }
            (Broken::Limit, None) => {
                // The endpoint was done already: it is the client that does not read.
                let mut error = Error::new_down(ErrorType::WriteTimedout);
                error.set_retry(false);
                return error;
            }
            (Broken::Endpoint(failed), _) => failed,
        };
        let mut error = Error::new_up(ErrorType::H2Error);
        error.set_retry(self.decide(session, ctx, failed));
        error
    }

    /// Sends the request and brings back the answer.
    async fn run(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        peer: &HttpPeer,
        mut stream: Stream,
        told: &Notify,
    ) -> Result<(), Broken> {
        let mut request = session.req_header().clone();
        to_h2::remove_nominated(&mut request);
        self.prepare_request(session, &mut request, ctx).map_err(Broken::Own)?;
        let request = to_h2::request(&request, peer).map_err(Broken::Own)?;
        let without_body = session.as_mut().is_body_empty();
        let reused = stream.reused;
        let begun = match poll_fn(|cx| stream.send.poll_ready(cx)).await {
            Ok(()) => stream.send.send_request(request, without_body),
            Err(error) => Err(error),
        };
        let (response, body) = begun.map_err(|error| {
            stream.retire();
            Broken::Endpoint(failure::of_unsent(&error, reused))
        })?;
        session.as_mut().enable_retry_buffering();
        let mut upload = Upload::new(body, without_body);
        // What an attempt before has read of the body comes again.
        let (buffer, ended) = (session.as_mut().get_retry_buffer(), session.as_mut().is_body_done());
        if !without_body && (buffer.is_some() || ended) {
            let buffer = buffer.unwrap_or_default();
            self.pass_body(Some(&buffer), ended, ctx).await;
            upload.give(buffer, ended);
        }
        let mut way = Way { service: self, session, ctx, told, upload, stream };
        let (header, body) = way.answer(response).await?;
        way.stream.answered();
        way.pass_on(header, body).await
    }
}

/// Both directions of a stream.
struct Way<'a> {
    service: &'a Service,
    session: &'a mut Session,
    ctx: &'a mut Context,
    told: &'a Notify,
    upload: Upload,
    stream: Stream,
}

/// What comes back first.
enum Head {
    Interim(http::Response<()>),
    Final(http::Response<RecvStream>),
}

impl Way<'_> {
    /// Waits for the answer's headers while the request's body goes out.
    async fn answer(&mut self, mut response: ResponseFuture) -> Result<(ResponseHeader, RecvStream), Broken> {
        loop {
            let read = poll_fn(|cx| {
                if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
                    return Poll::Ready(interim.map(Head::Interim));
                }
                Pin::new(&mut response).poll(cx).map_ok(Head::Final)
            });
            match self.while_sending(read).await? {
                Ok(Head::Interim(interim)) => {
                    if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                        // There is no such thing in HTTP/2 (RFC 9113, section 8.6).
                        return Err(Broken::Endpoint(Failure::Protocol));
                    }
                    let header = Box::new(to_h2::interim(interim));
                    self.write(vec![HttpTask::Header(header, false)]).await?;
                }
                Ok(Head::Final(response)) => {
                    let (parts, body) = response.into_parts();
                    return Ok((ResponseHeader::from(parts), body));
                }
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    /// Brings the answer to the client.
    async fn pass_on(&mut self, mut header: ResponseHeader, mut body: RecvStream) -> Result<(), Broken> {
        if !to_h2::has_one_length(&header) {
            return Err(Broken::Endpoint(Failure::Protocol));
        }
        let mut ended = self.at_end(&mut body)?;
        let method = &self.session.req_header().method;
        let bodiless = *method == Method::HEAD
            || matches!(header.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let announced = header.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        if ended && !bodiless && announced {
            return Err(Broken::Endpoint(Failure::Protocol));
        }
        self.service.judge(self.session, &header, self.ctx).map_err(Broken::TurnedDown)?;
        self.service.finish_response(self.session, &mut header, self.ctx).map_err(Broken::Own)?;
        header.set_version(Version::HTTP_11);
        if !bodiless && !header.headers.contains_key(CONTENT_LENGTH) {
            if self.session.req_header().version < Version::HTTP_11 {
                // It knows no chunks: its answer ends with the connection.
                self.session.set_keepalive(None);
            } else {
                header.insert_header(TRANSFER_ENCODING, "chunked").map_err(Broken::Own)?;
            }
        }
        if ended {
            self.service.flow(true, self.ctx);
        }
        self.write(vec![HttpTask::Header(Box::new(header), ended)]).await?;
        while !ended {
            match self.while_sending(poll_fn(|cx| body.poll_data(cx))).await? {
                Some(Ok(data)) => {
                    let length = data.len();
                    ended = self.at_end(&mut body)?;
                    if length == 0 && !ended {
                        continue;
                    }
                    self.service.flow(ended, self.ctx);
                    self.write(vec![HttpTask::Body(Some(data), ended)]).await?;
                    // Only now may the endpoint send more: the client has taken what came.
                    let _ = body.flow_control().release_capacity(length);
                }
                Some(Err(error)) => return Err(self.broken(&error)),
                None => {
                    let trailers = self.while_sending(poll_fn(|cx| body.poll_trailers(cx))).await?;
                    return self.finish(trailers).await;
                }
            }
        }
        Ok(())
    }

    async fn finish(&mut self, trailers: Result<Option<HeaderMap>, h2::Error>) -> Result<(), Broken> {
        let trailers = trailers.map_err(|error| self.broken(&error))?;
        self.service.flow(true, self.ctx);
        let trailers = trailers.map(|trailers| HttpTask::Trailer(Some(Box::new(trailers))));
        self.write(trailers.into_iter().chain([HttpTask::Done]).collect()).await
    }

    /// Whether the answer is over. That the stream has ended is also said of one that broke.
    fn at_end(&self, body: &mut RecvStream) -> Result<bool, Broken> {
        if !body.is_end_stream() {
            return Ok(false);
        }
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match body.poll_data(&mut cx) {
            Poll::Ready(Some(Err(error))) => Err(self.broken(&error)),
            _ => Ok(true),
        }
    }

    fn broken(&self, error: &h2::Error) -> Broken {
        if !error.is_reset() {
            // The connection is going, or gone.
            self.stream.retire();
        }
        let has_answer = has_answer(self.session);
        if !self.stream.reused && !has_answer && is_client_certificate_refused_in_h2(error) {
            // It read nothing of the request.
            return Broken::Endpoint(Failure::Connect(ConnectFailure::Tls));
        }
        Broken::Endpoint(failure::of_stream(error, has_answer, self.stream.reused))
    }

    /// Waits for something of the endpoint's while the request's body goes out, the client is watched, and the
    /// limits hold.
    async fn while_sending<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T, Broken> {
        let mut wanted = std::pin::pin!(wanted);
        loop {
            let (has_some, client) = (self.upload.has_some(), self.upload.wants());
            let piece = tokio::select! {
                biased;
                got = &mut wanted => return Ok(got),
                () = self.told.notified() => return Err(Broken::Limit),
                sent = self.upload.send(), if has_some => {
                    if sent && let Some(armed) = &self.ctx.attempt.armed {
                        armed.touch(self.service.clock.now());
                    }
                    continue;
                }
                piece = from_client(self.session, client) => piece,
            };
            let piece = piece.map_err(|error| Broken::Own(error.into_down()))?;
            // A body that trailers follow ends too, though Pingora does not say so.
            let ended = piece.is_none() || self.session.as_mut().is_body_done();
            self.service.pass_body(piece.as_ref(), ended, self.ctx).await;
            self.upload.give(piece.unwrap_or_default(), ended);
        }
    }

    /// Writes to the client within the limits.
    async fn write(&mut self, tasks: Vec<HttpTask>) -> Result<(), Broken> {
        tokio::select! {
            biased;
            written = self.session.write_response_tasks(tasks) => {
                written.map(drop).map_err(|error| Broken::Own(error.into_down()))
            }
            () = self.told.notified() => Err(if has_answer(self.session) {
                Broken::Limit
            } else {
                // Some of the head may have left, so that nothing can follow. It was the client that did not read.
                Broken::Own(Error::new_down(ErrorType::WriteTimedout))
            }),
        }
    }
}

/// The next piece of the request's body, or an error as soon as the client has gone.
async fn from_client(session: &mut Session, wants: Wants) -> Result<Option<Bytes>> {
    match wants {
        Wants::Piece => return session.as_mut().read_body_or_idle(false).await,
        Wants::Nothing => return session.as_mut().read_body_or_idle(true).await,
        // What the client sends now must not be taken for something else: it is left where it is.
        Wants::Rest => {}
    }
    match session.as_mut().watch_h2_stream_close() {
        Some(closed) => {
            closed.await?;
            Error::e_explain(ErrorType::ConnectionClosed, "the client gave the stream up")
        }
        None => std::future::pending().await,
    }
}
