//! Counters of the queues that are served.

use super::Served;
use crate::failure::Result;
use crate::output;
use serde_json::json;

pub(super) fn print(as_json: bool, all: &[Served]) -> Result<()> {
    for Served { runner, behind, socket } in all {
        let name = &behind.name;
        let own = (behind.counters)();
        if as_json && !own.is_empty() {
            let own: serde_json::Map<_, _> =
                own.into_iter().map(|(name, count)| (name.into(), count.into())).collect();
            output::json(&json!({ "status": "counters", "socket": socket, "device": own }))?;
        } else if !own.is_empty() {
            let own = own.into_iter().filter(|(_, count)| *count > 0);
            let own: Vec<_> = own.map(|(what, count)| format!("{count} {what}")).collect();
            eprintln!("{name}: {}", if own.is_empty() { "nothing yet".into() } else { own.join(", ") });
        }
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
