//! The end of a request: the answer to a failure, the outcome, the metrics and the log.

use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::{FailToProxy, Session};

use super::Service;
use super::context::Context;
use super::reply::Reply;

impl Service {
    /// Answers where no endpoint did, if the client can still be answered.
    pub(super) async fn answer_failure(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let reply = match (ctx.reply, error.esource()) {
            (Some(reply), _) => reply,
            (None, ErrorSource::Downstream) => of_client(error),
            (None, _) => Reply::INTERNAL,
        };
        ctx.reply = Some(reply);
        ctx.cause.get_or_insert_with(|| error.etype().as_str().to_owned());
        if session.response_written().is_none() && reply.status > 0 {
            // The state of the request's body is not known, so the connection ends with the answer.
            session.set_keepalive(None);
            if let Err(error) = self.answer(session, ctx, reply).await {
                log::debug!("the client went away before its answer: {error}");
            }
        }
        FailToProxy { error_code: reply.status, can_reuse_downstream: false }
    }
}

fn of_client(error: &Error) -> Reply {
    match error.etype() {
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::WriteTimedout => {
            Reply { status: 0, flags: "DC", text: "" }
        }
        ErrorType::ReadTimedout => Reply { status: 408, flags: "DT", text: "request timeout" },
        _ => Reply::BAD_REQUEST,
    }
}
