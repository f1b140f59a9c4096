use std::io;

/// An error of the system in the words of a log line: "connection refused" rather than "Connection
/// refused (os error 111)".
pub(super) fn words(error: &io::Error) -> String {
    let mut text = error.to_string();
    while let Some(start) = text.find(" (os error ")
        && let Some(length) = text[start..].find(')')
    {
        text.replace_range(start..=start + length, "");
    }
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            text.replace_range(..first.len_utf8(), &first.to_lowercase().to_string());
        }
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::explain::explain;

    #[test]
    fn an_error_reads_like_part_of_a_sentence() {
        assert_eq!(words(&Errno::CONNREFUSED.into()), "connection refused");
        assert_eq!(words(&Errno::NOENT.into()), "no such file or directory");
        let explained = words(&explain(Errno::MFILE.into()));
        assert!(explained.starts_with("too many open files: raise"), "{explained}");
        let named = "a.test: IPv4 (os error 1), Other (os error 2)";
        assert_eq!(words(&io::Error::other(named)), "a.test: IPv4, Other");
        assert_eq!(words(&io::Error::other("EOF")), "EOF");
        assert_eq!(words(&io::Error::other("")), "");
    }
}
