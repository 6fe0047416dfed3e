//! The command line of virtio-kit.
#![forbid(unsafe_code)]

mod blk;
mod cli;
mod console;
mod demo;
mod failure;
mod histogram;
mod info;
mod net;
mod output;
mod rng;
mod serve;
mod target;
mod units;

use clap::Parser;
use clap::error::ErrorKind;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let done = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Blk(command) => blk::run(&command),
        Command::Net(command) => net::run(&command),
        Command::Serve(command) => serve::run(&command),
        Command::Console(args) => console::run(&args),
        Command::Rng(args) => rng::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Help as it is; anything wrong in one line, with exit status 2.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Help that nobody reads is nobody's loss.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
        _ => {}
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    eprintln!("vkit: {} (see `vkit --help`)", line.strip_prefix("error: ").unwrap_or(&line));
    ExitCode::from(2)
}
