//! A scenario's text, word by word.

use std::str::SplitWhitespace;

use thiserror::Error as ThisError;

/// Why a text is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("line {line}: {cause}")]
pub struct ScenarioError {
    /// The line at fault, from 1.
    pub line: usize,
    /// What is wrong with it, and what would be right.
    pub cause: String,
}

/// The words of a line.
pub(crate) struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    /// `#` begins a comment.
    pub(crate) fn of(line: &'a str) -> Self {
        Self(line.split('#').next().unwrap_or_default().split_whitespace())
    }

    /// The first word; an empty line has none.
    pub(crate) fn first(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    /// All words that are left.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = &'a str> {
        self.0.by_ref()
    }

    pub(crate) fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing at the end"))
    }

    pub(crate) fn end(mut self) -> Result<(), String> {
        match self.0.next() {
            Some(word) => Err(format!("{word} is too much at the end")),
            None => Ok(()),
        }
    }

    pub(crate) fn number(&mut self, what: &str, least: u64, most: u64) -> Result<u64, String> {
        let word = self.next(what)?;
        let value: Option<u64> = word.parse().ok();
        value
            .filter(|value| (least..=most).contains(value))
            .ok_or_else(|| format!("{what} is {word}; it must be {least} to {most}"))
    }

    pub(crate) fn small(&mut self, what: &str, least: u32, most: u32) -> Result<u32, String> {
        Ok(self.number(what, u64::from(least), u64::from(most))? as u32)
    }

    /// A number that follows its name.
    pub(super) fn named(&mut self, name: &str, most: u32) -> Result<u32, String> {
        match self.next(name)? {
            word if word == name => self.small(name, 0, most),
            word => Err(format!("{word} stands where {name} is expected")),
        }
    }

    pub(crate) fn one_of<T: Copy>(&mut self, what: &str, names: &[(&str, T)]) -> Result<T, String> {
        let word = self.next(what)?;
        let found = names.iter().find(|(name, _)| *name == word);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            format!("{what} is {word}; it must be {}", names.join(", "))
        })
    }
}
