use std::path::Path;

/// The most problems that are listed for one file: with that many, you correct the first ones
/// first. The last line counts the rest.
const PROBLEMS_MAX: usize = 20;

/// The most characters that are shown of a line, on either side of the problem.
const SHOWN_MAX: usize = 100;

/// The most characters of a message at either end. What is long is a value that it quotes; the
/// remedy comes last.
const MESSAGE_END_MAX: usize = 250;

/// Something wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 1; one past the end of the line if something is missing there.
    pub(crate) column: usize,
    /// Cause and remedy, in one line.
    pub(crate) message: String,
    /// The line, or what is around the problem if the line is long.
    pub(crate) source_line: String,
    /// How many characters of `source_line` come before the problem.
    caret: usize,
    /// The number of problems it stands for.
    pub(crate) count: usize,
}

impl Problem {
    /// `FILE:LINE:COLUMN: message`.
    pub(crate) fn one_line(&self, file: &Path) -> String {
        format!("{}:{}:{}: {}", file.display(), self.line, self.column, self.message)
    }

    /// The same with the line below it, and a mark at the place. Doesn't end in a newline.
    pub(crate) fn show(&self, file: &Path) -> String {
        let (line, source, mark) = (self.line, &self.source_line, " ".repeat(self.caret));
        let gutter = " ".repeat(line.to_string().len());
        format!("{}\n{gutter} |\n{line} | {source}\n{gutter} | {mark}^", self.one_line(file))
    }
}

/// Finds line and column of each message, and sorts by position. Each is given with the offset in
/// bytes of a character, or of the end.
pub(super) fn locate(text: &str, mut found: Vec<(usize, String)>) -> Vec<Problem> {
    found.sort_by_key(|(at, _)| *at);
    let mut last_count = 1;
    if found.len() > PROBLEMS_MAX {
        let more = found.len() - (PROBLEMS_MAX - 1);
        last_count = more;
        found.truncate(PROBLEMS_MAX);
        found[PROBLEMS_MAX - 1].1 =
            format!("there are {more} more problems from here on: correct the first ones");
    }
    // One walk for all of them: a long file may have many problems in one long line.
    let (mut line, mut column, mut reached) = (1, 1, 0);
    let mut problems = Vec::with_capacity(found.len());
    for (at, message) in found {
        for character in text[reached..at].chars() {
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        reached = at;
        let (source_line, caret) = excerpt(text, at);
        let message = tidy(&message);
        problems.push(Problem { line, column, message, source_line, caret, count: 1 });
    }
    if let Some(last) = problems.last_mut() {
        last.count = last_count;
    }
    problems
}

/// The line around a place, and how many characters of it come before that place.
fn excerpt(text: &str, at: usize) -> (String, usize) {
    let mut before: Vec<char> =
        text[..at].chars().rev().take_while(|c| *c != '\n').take(SHOWN_MAX + 1).collect();
    if before.len() > SHOWN_MAX {
        before[SHOWN_MAX] = '…';
    }
    let mut after: Vec<char> =
        text[at..].chars().take_while(|c| *c != '\n').take(SHOWN_MAX + 1).collect();
    if after.len() > SHOWN_MAX {
        after[SHOWN_MAX] = '…';
    }
    if after.last() == Some(&'\r') {
        after.pop();
    }
    // Each character stays one, so that the mark stands below its place, and none of them can
    // command a terminal.
    let show = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let caret = before.len();
    let mut line: Vec<char> = before.into_iter().rev().chain(after).map(show).collect();
    hide_users(&mut line);
    (line.into_iter().collect(), caret)
}

/// Hides what stands before the `@` of a URL, as a password may: lines are shown in logs.
fn hide_users(line: &mut [char]) {
    let starts: Vec<usize> =
        (0..line.len()).filter(|at| line[*at..].starts_with(&[':', '/', '/'])).collect();
    for start in starts {
        let url = &mut line[start + 3..];
        let end = url.iter().position(|c| matches!(c, '"' | '\'' | ' ')).unwrap_or(url.len());
        if let Some(user) = url[..end].iter().rposition(|c| *c == '@') {
            url[..user].fill('*');
        }
    }
}

/// A message as one line of bounded length, whatever it quotes.
fn tidy(message: &str) -> String {
    let mut line = String::new();
    for character in message.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    let length = line.chars().count();
    if length <= 2 * MESSAGE_END_MAX {
        return line;
    }
    let head = line.chars().take(MESSAGE_END_MAX);
    head.chain(['…']).chain(line.chars().skip(length - MESSAGE_END_MAX)).collect()
}
