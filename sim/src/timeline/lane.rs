//! A lane of the page: what one host did, as bars in rows.

use std::fmt::{self, Write as _};

/// How wide a lane is taken to be where texts must not cover each other.
const CHARACTERS_ACROSS: f64 = 190.0;

/// What a page shows of a time: begin and length, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) length: u64,
}

impl Scale {
    fn percent(self, time: u64) -> f64 {
        time as f64 * 100.0 / self.length as f64
    }

    /// So narrow that it can't be seen on a page that isn't enlarged.
    fn hair(self) -> u64 {
        self.length / 600
    }
}

/// Something in a lane. Its texts may hold anything: they are escaped when they are written.
pub(super) struct Bar {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Classes of the style sheet.
    pub(super) class: String,
    pub(super) title: String,
    /// What stands in it.
    pub(super) text: String,
}

/// What one host did.
pub(super) struct Lane {
    name: String,
    about: String,
    /// Beginning at this distance from the top, so high, with this inside.
    rows: Vec<(u32, u32, Bar)>,
    /// From top to bottom.
    behind: Vec<Bar>,
    height: u32,
}

impl Lane {
    pub(super) fn new(name: impl fmt::Display, about: &str) -> Self {
        let (name, about) = (name.to_string(), about.to_owned());
        Self { name, about, rows: Vec::new(), behind: Vec::new(), height: 4 }
    }

    /// Adds what lies behind all else.
    pub(super) fn add_behind(&mut self, bars: impl IntoIterator<Item = Bar>) {
        self.behind.extend(bars);
    }

    /// Adds one row of bars, if there are any. They lie where they lie, one upon the other.
    pub(super) fn add_row(&mut self, row_height: u32, bars: impl IntoIterator<Item = Bar>) {
        let (top, before) = (self.height, self.rows.len());
        self.rows.extend(bars.into_iter().map(|bar| (top, row_height, bar)));
        if self.rows.len() > before {
            self.height += row_height + 2;
        }
    }

    /// Adds groups of bars, each group in one row, in as few rows as do without meetings.
    pub(super) fn add_packed(&mut self, scale: Scale, groups: Vec<Vec<Bar>>) {
        let spans: Vec<_> = groups.iter().map(|group| span_of(group, scale)).collect();
        let (places, count) = pack(&spans);
        let (row_height, step) = match count {
            0..=30 => (6, 8),
            31..=80 => (4, 5),
            _ => (2, 3),
        };
        for (group, place) in groups.into_iter().zip(places) {
            let top = self.height + place as u32 * step;
            self.rows.extend(group.into_iter().map(|bar| (top, row_height, bar)));
        }
        self.height += count as u32 * step + 2;
    }

    /// Adds texts, each beginning at its time, or ending there where there is no room after it.
    pub(super) fn add_labels(&mut self, scale: Scale, labels: Vec<Bar>) {
        let length = |bar: &Bar| {
            let share = (bar.text.chars().count() as f64 + 3.0) / CHARACTERS_ACROSS;
            (share * scale.length as f64) as u64
        };
        let is_late = |bar: &Bar| bar.from + length(bar) > scale.length;
        let spans: Vec<_> = labels
            .iter()
            .map(|bar| match is_late(bar) {
                true => (bar.from.saturating_sub(length(bar)), bar.from),
                false => (bar.from, bar.from + length(bar)),
            })
            .collect();
        let (places, count) = pack(&spans);
        for (mut bar, place) in labels.into_iter().zip(places) {
            bar.class.push_str(if is_late(&bar) { " label late" } else { " label" });
            self.rows.push((self.height + place as u32 * 17, 15, bar));
        }
        self.height += count as u32 * 17 + 2;
    }

    pub(super) fn write(&self, page: &mut String, scale: Scale) -> fmt::Result {
        let Self { name, about, height, .. } = self;
        // The texts of what lies behind stand below all else.
        let texts = if self.behind.is_empty() { 0 } else { 10 };
        let height = (height + 4 + texts).max(38);
        write!(page, "<section class=lane style=\"height:{height}px\"><div class=name>")?;
        write!(page, "<b>{}</b> <span>{}</span></div>", Escaped(name), Escaped(about))?;
        page.push_str("<div class=track>\n");
        for bar in &self.behind {
            bar.write(page, scale, format_args!("top:0;bottom:0"))?;
        }
        for (top, row_height, bar) in &self.rows {
            bar.write(page, scale, format_args!("top:{top}px;height:{row_height}px"))?;
        }
        page.push_str("</div></section>\n");
        Ok(())
    }
}

impl Bar {
    fn write(&self, page: &mut String, scale: Scale, style: fmt::Arguments<'_>) -> fmt::Result {
        let Self { from, to, class, title, text } = self;
        let left = scale.percent(*from);
        let width = scale.percent(to.saturating_sub(*from));
        write!(page, "<i class=\"{class}\" style=\"{style};left:{left:.4}%;width:{width:.4}%\"")?;
        writeln!(page, " title=\"{}\"><s>{}</s></i>", Escaped(title), Escaped(text))
    }
}

fn span_of(group: &[Bar], scale: Scale) -> (u64, u64) {
    let from = group.iter().map(|bar| bar.from).min().unwrap_or_default();
    let to = group.iter().map(|bar| bar.to).max().unwrap_or_default();
    (from, to.max(from + scale.hair()) + scale.hair())
}

/// A row for each span, the first where it meets no other, and how many rows that makes.
fn pack(spans: &[(u64, u64)]) -> (Vec<usize>, usize) {
    let mut order: Vec<_> = (0..spans.len()).collect();
    order.sort_by_key(|place| spans[*place]);
    let mut free_from: Vec<u64> = Vec::new();
    let mut rows = vec![0; spans.len()];
    for place in order {
        let (from, to) = spans[place];
        let row = free_from.iter().position(|free| *free <= from).unwrap_or(free_from.len());
        match free_from.get_mut(row) {
            Some(free) => *free = to,
            None => free_from.push(to),
        }
        rows[place] = row;
    }
    (rows, free_from.len())
}

/// Text that means nothing to HTML.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_meet_lie_in_different_rows() {
        let spans = [(0, 10), (5, 15), (10, 20), (15, 16), (12, 13)];
        assert_eq!(pack(&spans), (vec![0, 1, 0, 1, 2], 3));
        assert_eq!(pack(&[]), (vec![], 0));
    }

    #[test]
    fn no_text_becomes_a_part_of_the_page() {
        let text = Escaped("<b title='x' class=\"y\">&").to_string();
        assert_eq!(text, "&lt;b title=&#39;x&#39; class=&quot;y&quot;&gt;&amp;");
    }
}
