//! The reader of a TOML tree, which collects what is wrong with it.

use std::path::PathBuf;

use tinylb_tokio::Address;
use toml::{
    Spanned,
    de::{DeString, DeValue},
};

use super::syntax::Syntax;

pub(super) type Key<'i> = Spanned<DeString<'i>>;
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// Reads a tree from its root, and collects what is wrong with it.
pub(super) struct Reader<'t> {
    pub(super) text: &'t str,
    pub(super) syntax: Syntax,
    /// Offset in bytes, and message.
    pub(super) found: Vec<(usize, String)>,
    /// The addresses of all services: offset in bytes, service, and address.
    pub(super) listens: Vec<(usize, String, Address)>,
    /// The `last_known` of all services: offset in bytes, service, and path.
    pub(super) kept: Vec<(usize, String, PathBuf)>,
}

impl Reader<'_> {
    pub(super) fn wrong(&mut self, at: &Spanned<impl Sized>, message: impl Into<String>) {
        self.found.push((at.span().start, message.into()));
    }

    /// Reports that something is missing, unless a syntax error may have hidden it.
    pub(super) fn missing(&mut self, at: usize, message: impl Into<String>) {
        if self.syntax.errors.is_empty() {
            self.found.push((at, message.into()));
        }
    }

    /// Reports an unknown key, and returns the known one that it seems to stand for.
    pub(super) fn unknown(
        &mut self,
        key: &Key<'_>,
        place: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let (given, nearest) = (key.get_ref(), nearest(key.get_ref(), known));
        let message = match nearest {
            Some(nearest) => format!("unknown key `{given}`: did you mean `{nearest}`?"),
            None => {
                let list: Vec<_> = known.iter().map(|known| format!("`{known}`")).collect();
                format!("unknown key `{given}` {place}: expected {}", list.join(", "))
            }
        };
        self.wrong(key, message);
        nearest
    }
}

/// The known key that was probably meant: the first of the nearest that are at most two slips,
/// and less than half of the key, away.
pub(super) fn nearest(given: &str, known: &[&'static str]) -> Option<&'static str> {
    let length = given.chars().count();
    known
        .iter()
        .filter(|known| length.abs_diff(known.len()) <= 2)
        .map(|known| (slips(given, known), *known))
        .filter(|(slips, _)| *slips <= 2 && 2 * slips < length)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, known)| known)
}

/// How many letters were left out, added or changed (Levenshtein's distance).
fn slips(given: &str, known: &str) -> usize {
    // For each length of the beginning of `known`, the slips from what was read of `given`.
    let mut row: Vec<usize> = (0..=known.chars().count()).collect();
    for (read, from) in given.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = read + 1;
        for (place, to) in known.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[row.len() - 1]
}
