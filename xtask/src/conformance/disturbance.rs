//! What a cluster in trouble does to the suite: an API server that answers late, controllers that die.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};

use crate::cluster::lab::Lab;
use crate::run;

/// So long the API server stands still, and so long it works.
const STILL: Duration = Duration::from_millis(300);
const AWAKE: Duration = Duration::from_millis(400);
/// When the first leader is killed, when the next ones, and how many. The kubelet waits longer each time before it starts
/// a container again.
const FIRST_KILL: Duration = Duration::from_secs(15);
const NEXT_KILL: Duration = Duration::from_secs(30);
const KILLS: u32 = 3;

const LIMIT: Duration = Duration::from_secs(20);

/// Ends every controller that leads: in a cluster of one node, all that there are.
const KILL_CONTROLLERS: &str = r#"killed=0
for folder in /proc/[0-9]*; do
  case "$(tr '\0' ' ' 2>/dev/null <"$folder/cmdline")" in
    "/understudy controller "*) kill -9 "${folder#/proc/}" && killed=$((killed + 1)) ;;
  esac
done
[ "$killed" -gt 0 ]"#;

/// A disturbance that lasts until it is ended.
pub(crate) struct Disturbance {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<String>>,
}

impl Disturbance {
    /// Begins it.
    pub(crate) fn begin(lab: &Lab) -> Result<Self> {
        let signal = |name: &str| -> Result<Command> {
            let mut kill = lab.command("kill");
            kill.args(["-s", name, &lab.pid("apiserver")?]);
            Ok(kill)
        };
        let (mut stop, mut go_on) = (signal("STOP")?, signal("CONT")?);
        let mut kill = lab.command("sh");
        kill.args(["-c", KILL_CONTROLLERS]);
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let thread = spawn(move || disturb(&mut stop, &mut go_on, &mut kill, &until));
        Ok(Self { over, thread })
    }

    /// Ends it, and says what it was.
    pub(crate) fn end(self) -> Result<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the disturbance panicked"))?
    }
}

fn disturb(stop: &mut Command, go_on: &mut Command, kill: &mut Command, over: &AtomicBool) -> Result<String> {
    let began = SystemTime::now();
    let mut due = FIRST_KILL;
    let (mut pauses, mut kills) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        // None may run just now.
        if kills < KILLS && began.elapsed().unwrap_or_default() > due && run::attempted(kill, LIMIT)?.0 {
            kills += 1;
            due += NEXT_KILL;
        }
        run::output(stop)?;
        sleep(STILL);
        run::output(go_on)?;
        pauses += 1;
        sleep(AWAKE);
    }
    Ok(format!(
        "disturbed: the API server stood still {pauses} times for {} ms, the leading controller was killed {kills} times",
        STILL.as_millis()
    ))
}
