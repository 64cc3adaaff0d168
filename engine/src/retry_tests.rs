use super::*;

const SENT: Facts = Facts { response_started: false, can_resend: true };

fn retry(triggers: &[RetryTrigger]) -> Retry {
    Retry { triggers: triggers.iter().copied().collect(), status_codes: [503].into(), ..Retry::default() }
}

fn by_policy(failure: Failure, triggers: &[RetryTrigger]) -> bool {
    grounds(failure, SENT, false, Some(&retry(triggers)), Used::default())
        .is_ok_and(|grounds| grounds.contains(&Ground::Policy))
}

#[test]
fn r3_the_matrix_of_triggers_and_failures_is_the_measured_one() {
    use RetryTrigger as T;
    let per_try = Failure::Timeout { kind: TimeoutKind::PerTry, connected: true };
    let failures = [
        Failure::Connect(ConnectFailure::Refused),
        Failure::Reset,
        per_try,
        Failure::Status(500),
        Failure::Status(502),
        Failure::Status(504),
        Failure::Status(503),
        Failure::Status(409),
        Failure::Status(429),
        Failure::Body,
    ];
    let default =
        [T::ConnectFailure, T::RefusedStream, T::Unavailable, T::Cancelled, T::RetriableStatusCodes];
    for (triggers, expected) in [
        (&[T::ConnectFailure][..], "y........."),
        (&[T::ResetBeforeRequest], "y........."),
        (&[T::Reset], "yyy......."),
        (&[T::GatewayError], "yyy.yyy..."),
        (&[T::Status5xx], "yyyyyyy..."),
        (&[T::Retriable4xx], ".......y.."),
        (&[T::RetriableStatusCodes], "......y..."),
        (&[T::RefusedStream], ".........."),
        (&default, "y.....y..."),
    ] {
        let row: String =
            failures.iter().map(|failure| if by_policy(*failure, triggers) { 'y' } else { '.' }).collect();
        assert_eq!(row, expected, "{triggers:?}");
    }
}

#[test]
fn r3_a_refused_stream_is_moved_and_retried_wherever_nothing_was_processed() {
    use RetryTrigger as T;
    let triggers = [T::RefusedStream, T::ConnectFailure, T::ResetBeforeRequest, T::Reset, T::GatewayError];
    for trigger in triggers {
        assert!(by_policy(Failure::Refused, &[trigger]), "{trigger:?}");
    }
    for trigger in [T::Retriable4xx, T::RetriableStatusCodes, T::Unavailable] {
        assert!(!by_policy(Failure::Refused, &[trigger]), "{trigger:?}");
    }
    assert_eq!(grounds(Failure::Refused, SENT, false, None, Used::default()), Ok(vec![Ground::Safe]));
}

#[test]
fn r4_each_trigger_of_grpc_retries_its_status_and_no_other() {
    use RetryTrigger as T;
    let statuses: Vec<Failure> = (1..=16).map(|status| Failure::Grpc(GrpcStatus(status))).collect();
    for (triggers, expected) in [
        (&[T::Cancelled][..], "y..............."),
        (&[T::DeadlineExceeded], "...y............"),
        (&[T::ResourceExhausted], ".......y........"),
        (&[T::Internal], "............y..."),
        (&[T::Unavailable], ".............y.."),
        (&[T::Status5xx, T::GatewayError, T::Reset, T::Retriable4xx], "................"),
    ] {
        let row: String =
            statuses.iter().map(|failure| if by_policy(*failure, triggers) { 'y' } else { '.' }).collect();
        assert_eq!(row, expected, "{triggers:?}");
    }
}

#[test]
fn r1_without_a_policy_only_the_safe_retry_is_left() {
    let safe = grounds(Failure::Connect(ConnectFailure::Refused), SENT, false, None, Used::default());
    assert_eq!(safe, Ok(vec![Ground::Safe]));
    assert_eq!(grounds(Failure::Status(503), SENT, false, None, Used::default()), Err(GiveUp::NotRetriable));
    assert_eq!(grounds(Failure::Reset, SENT, false, None, Used::default()), Err(GiveUp::NotRetriable));
}

#[test]
fn num_retries_zero_turns_the_safe_retry_off() {
    let zero = Retry { num_retries: 0, ..Retry::default() };
    for failure in [Failure::Connect(ConnectFailure::Refused), Failure::StalePooled, Failure::Status(503)] {
        assert_eq!(grounds(failure, SENT, false, Some(&zero), Used::default()), Err(GiveUp::NotRetriable));
    }
}

#[test]
fn a_failed_trial_is_replayed_whatever_the_policy_says() {
    let zero = Retry { num_retries: 0, ..Retry::default() };
    assert_eq!(
        grounds(Failure::Status(500), SENT, true, Some(&zero), Used::default()),
        Ok(vec![Ground::Trial])
    );
    assert_eq!(grounds(Failure::Reset, SENT, true, None, Used::default()), Ok(vec![Ground::Trial]));
    // A status that is no failure is the answer.
    assert_eq!(grounds(Failure::Status(404), SENT, true, None, Used::default()), Err(GiveUp::NotRetriable));
}

#[test]
fn r2_nothing_is_retried_once_the_client_has_some_of_the_answer() {
    let started = Facts { response_started: true, can_resend: true };
    let always = retry(&[RetryTrigger::Status5xx]);
    for failure in [Failure::Body, Failure::Reset, Failure::Status(503)] {
        assert_eq!(
            grounds(failure, started, true, Some(&always), Used::default()),
            Err(GiveUp::NotRetriable),
            "{failure:?}"
        );
    }
}

#[test]
fn r5_the_request_timeout_is_never_retried() {
    let always = retry(&[RetryTrigger::Status5xx, RetryTrigger::Reset]);
    for connected in [true, false] {
        let failure = Failure::Timeout { kind: TimeoutKind::Request, connected };
        assert_eq!(grounds(failure, SENT, false, Some(&always), Used::default()), Err(GiveUp::NotRetriable));
    }
}

#[test]
fn r6_back_off_is_uniform_below_a_bound_that_doubles() {
    let mut rng = Rng::with_seed(7);
    let ours = BackOff::default();
    for (n, bound_ms) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (60, 250), (200, 250)] {
        let waits: Vec<Duration> = (0..500).map(|_| back_off(ours, n, &mut rng)).collect();
        let longest = waits.iter().max().copied().unwrap_or_default();
        let mean = waits.iter().sum::<Duration>() / 500;
        assert!(longest < Duration::from_millis(bound_ms), "{n}: {longest:?}");
        let half = Duration::from_millis(bound_ms) / 2;
        assert!(mean > half.mul_f64(0.85) && mean < half.mul_f64(1.15), "{n}: mean {mean:?}");
    }
}

#[test]
fn r9_used_up_retries_pass_the_last_failure_on() {
    let policy = retry(&[RetryTrigger::Status5xx]);
    let used = Used { safe: 0, policy: 2 };
    assert_eq!(grounds(Failure::Status(500), SENT, false, Some(&policy), used), Err(GiveUp::Exhausted));
}

#[test]
fn r12_a_request_that_cannot_be_sent_again_passes_its_first_failure_on() {
    let cut = Facts { response_started: false, can_resend: false };
    let policy = retry(&[RetryTrigger::Status5xx]);
    assert_eq!(
        grounds(Failure::Status(503), cut, false, Some(&policy), Used::default()),
        Err(GiveUp::CannotResend)
    );
}

#[test]
fn the_safe_retry_moves_a_request_five_times_at_most() {
    let used = Used { safe: 5, policy: 0 };
    let refused = Failure::Connect(ConnectFailure::Refused);
    assert_eq!(grounds(refused, SENT, false, None, used), Err(GiveUp::NotRetriable));
}

#[test]
fn o9_what_the_gateway_itself_lacks_charges_nobody() {
    assert_eq!(Failure::Connect(ConnectFailure::Local).cause(), None);
    assert!(Failure::Connect(ConnectFailure::Local).nothing_sent());
    assert_eq!(Failure::Connect(ConnectFailure::Left).cause(), None);
    assert!(Failure::Connect(ConnectFailure::Other).cause().is_some());
}
