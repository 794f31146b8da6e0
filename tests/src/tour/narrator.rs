//! What the tour prints.

use std::cell::Cell;

/// Numbers the steps; colours only on a terminal.
#[derive(Debug)]
pub(crate) struct Narrator {
    is_terminal: bool,
    step: Cell<u32>,
}

impl Narrator {
    pub(crate) fn new(is_terminal: bool) -> Self {
        Self { is_terminal, step: Cell::new(0) }
    }

    /// Something outside the steps.
    pub(crate) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// A new step.
    pub(crate) fn step(&self, title: &str) {
        self.step.set(self.step.get() + 1);
        let heading = format!("{}. {title}", self.step.get());
        self.say("");
        self.say(&if self.is_terminal { format!("\u{1b}[1m{heading}\u{1b}[0m") } else { heading });
    }

    /// What is being done.
    pub(crate) fn does(&self, text: &str) {
        self.say(&format!("   $ {text}"));
    }

    /// What came back.
    pub(crate) fn shows(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.say(&format!("     {line}"));
        }
    }

    /// What was checked and holds.
    pub(crate) fn holds(&self, text: &str) {
        self.say(&if self.is_terminal { format!("   \u{1b}[32mok\u{1b}[0m {text}") } else { format!("   ok {text}") });
    }
}
