//! One line per step, and the sum at the end.

use std::process::ExitCode;

use owo_colors::{OwoColorize as _, Stream};

/// Columns of what is tried, and of what is expected.
const WIDTHS: (usize, usize) = (47, 34);

/// Prints the steps and counts them.
#[derive(Debug, Default)]
pub(super) struct Teller {
    passed: u32,
    failed: u32,
}

impl Teller {
    /// Prints the title of a chapter.
    pub(super) fn chapter(title: &str) {
        println!("\n{}", title.if_supports_color(Stream::Stdout, |text| text.bold()));
    }

    /// Prints and counts one step.
    pub(super) fn step(&mut self, what: &str, expected: &str, came_true: bool, seen: &str) {
        let (what_width, expected_width) = WIDTHS;
        let line = format!("{what:what_width$} expected {expected:expected_width$} seen {seen}");
        if came_true {
            self.passed += 1;
            println!("{}     {line}", "ok".if_supports_color(Stream::Stdout, |text| text.green()));
        } else {
            self.failed += 1;
            println!("{} {line}", "FAILED".if_supports_color(Stream::Stdout, |text| text.red()));
        }
    }

    /// Prints the sum; the exit status says whether every step came true.
    pub(super) fn end(self) -> ExitCode {
        println!("\ndemo: {} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
