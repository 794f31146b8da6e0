//! `palisade policy`: tests and views of policies, explanations of decisions, and the schema that policies are written against.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Subcommand;

mod explanation;
mod junit;
mod records;
mod show;
mod test;
mod why;

/// Ask about authorization: test policies, see what is in force, why a request was denied, and what policies may refer to.
#[derive(Debug, clap::Args)]
pub(crate) struct Policy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(Box<test::Test>),
    Show(Box<show::Show>),
    Why(Box<why::Why>),
    Records(records::Records),
    /// Print the Cedar schema that every policy is checked against.
    Schema,
}

impl Policy {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// When it cannot do its work.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Test(test) => test.run(),
            Command::Show(show) => show.run(),
            Command::Why(why) => why.run(),
            Command::Records(records) => records.run(),
            Command::Schema => {
                io::stdout().lock().write_all(palisade_policy::SCHEMA.as_bytes())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
