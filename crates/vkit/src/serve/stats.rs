//! Counters of the queues that are served.

use super::Served;
use crate::failure::Result;
use crate::output;
use serde_json::json;

pub(super) fn print(as_json: bool, all: &[Served]) -> Result<()> {
    for Served { runner, name, socket, .. } in all {
        for queue in runner.queues() {
            let counters = queue.counters();
            let (taken, completed) = (counters.taken(), counters.completed());
            let (kicks, calls, wakes) = (counters.kicks(), counters.calls(), counters.wakes());
            if as_json {
                output::json(&json!({
                    "status": "counters", "socket": socket, "queue": queue.index(), "running": queue.is_running(),
                    "taken": taken, "completed": completed, "kicks": kicks, "calls": calls, "wakes": wakes,
                }))?;
            } else {
                let running = if queue.is_running() { "running" } else { "stopped" };
                eprintln!(
                    "{name} queue {}: {running}, {taken} taken, {completed} completed, {kicks} kicks, \
                     {calls} calls, {wakes} wakes",
                    queue.index()
                );
            }
        }
    }
    Ok(())
}
