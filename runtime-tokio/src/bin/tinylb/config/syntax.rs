use std::ops::Range;

use toml::de::{DeTable, Error};

/// What is wrong with a text as TOML.
///
/// The parser goes on after an error, and may then misread what follows. So there are parts of
/// the text, each beginning with the line of an error, in which nothing else is reported.
pub(super) struct Syntax {
    /// Offset in bytes, and message; by offset.
    pub(super) errors: Vec<(usize, String)>,
    /// By offset, apart from each other.
    doubtful: Vec<Range<usize>>,
}

/// An error of the parser.
struct Fault {
    /// Offset in bytes.
    at: usize,
    /// The parser's message.
    message: String,
    /// The message that is reported.
    explained: String,
}

/// After a line that is neither a key with a value nor a whole header, the parser loses the rest
/// of the text. So it reads once more without that line, at most this often.
const LOST_LINES_MAX: usize = 10;

impl Syntax {
    /// Hands over the text's tree, as far as it can be read, and what is wrong with it.
    pub(super) fn read<R>(text: &str, then: impl FnOnce(&DeTable<'_>, Self) -> R) -> R {
        Self::read_without(text, Vec::new(), then)
    }

    fn read_without<R>(
        text: &str,
        mut lost: Vec<Fault>,
        then: impl FnOnce(&DeTable<'_>, Self) -> R,
    ) -> R {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let mut faults: Vec<_> = errors.iter().map(|error| Fault::new(text, error)).collect();
        if lost.len() < LOST_LINES_MAX
            && let Some(place) = faults.iter().position(Fault::loses_the_rest)
        {
            let line = line_of(text, faults[place].at);
            let line = line.start..line.end - 1;
            let mut rest = text.to_string();
            rest.replace_range(line.clone(), &" ".repeat(line.len()));
            lost.push(faults.swap_remove(place));
            return Self::read_without(&rest, lost, then);
        }
        faults.extend(lost);
        then(tree.get_ref(), Self::new(text, faults))
    }

    fn new(text: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.at);
        // A bracket that is never closed swallows the rest of the file.
        let has_runaway = faults.iter().any(Fault::is_unclosed_value);
        let mut syntax = Self { errors: Vec::new(), doubtful: Vec::new() };
        for (place, fault) in faults.iter().enumerate() {
            if syntax.is_doubtful(fault.at) {
                continue;
            }
            // A key that is there twice was read well; it needs no doubt.
            if fault.message == "duplicate key" {
                syntax.errors.push((fault.at, fault.explained.clone()));
                continue;
            }
            let line = line_of(text, fault.at);
            let mut on_line = faults[place..].iter().take_while(|fault| line.contains(&fault.at));
            let runaway = on_line.find(|fault| has_runaway && fault.is_about_brackets());
            let fault = runaway.unwrap_or(fault);
            let mut message = fault.explained.clone();
            if runaway.is_some() && !fault.is_unclosed_value() {
                message.push_str("; or a `]` or `}` is missing above");
            }
            syntax.errors.push((fault.at, message));
            let end = match runaway {
                Some(_) => text.len() + 1,
                None => end_of_doubt(text, &line),
            };
            syntax.doubtful.push(line.start..end);
        }
        syntax
    }

    /// Whether what stands at this offset may have been misread.
    pub(super) fn is_doubtful(&self, at: usize) -> bool {
        let next = self.doubtful.partition_point(|part| part.start <= at);
        next > 0 && self.doubtful[next - 1].contains(&at)
    }
}

impl Fault {
    fn new(text: &str, error: &Error) -> Self {
        let at = error.span().map_or(0, |span| floor(text, span.start));
        Self { at, message: error.message().into(), explained: explain(text, error) }
    }

    fn is_unclosed_value(&self) -> bool {
        ["unclosed inline table", "unclosed array, "].iter().any(|m| self.message.starts_with(m))
    }

    fn loses_the_rest(&self) -> bool {
        ["key with no value", "unclosed array table"].iter().any(|m| self.message.starts_with(m))
    }

    fn is_about_brackets(&self) -> bool {
        ["comma", "array", "table"].iter().any(|word| self.message.contains(word))
    }
}

/// The nearest start of a character at or before a place.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The line around a place, with its newline; the last one has the end of the text in it.
fn line_of(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..end + 1
}

/// Where the part ends that an error in a line may have caused to be misread: with the line if it
/// is a bad value, at the next header otherwise.
fn end_of_doubt(text: &str, line: &Range<usize>) -> usize {
    if text[line.start..line.end - 1].contains('=') {
        return line.end;
    }
    let mut end = line.end;
    for line in text.get(end..).unwrap_or_default().split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            return end;
        }
        end += line.len();
    }
    text.len() + 1
}

/// The parser's message, with a remedy where it gives none.
fn explain(text: &str, error: &Error) -> String {
    let given = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    let message = error.message();
    match message.strip_suffix(", expected nothing").unwrap_or(message) {
        "duplicate key" => format!("duplicate key `{given}`: keep one of the two"),
        quotes if quotes.starts_with("string values must be quoted") => match given {
            "" => "the value is missing: write one after the `=`".into(),
            _ => format!("`{given}` isn't a TOML value: put text in quotes, \"{given}\""),
        },
        number
            if ["invalid float", "invalid int", "invalid date", "invalid time", "invalid boo"]
                .iter()
                .any(|start| number.starts_with(start)) =>
        {
            format!("{number}: put quotes around the value if it is text")
        }
        message => message.into(),
    }
}
