use std::fmt::Write;

use crate::{
    machine::round,
    report::{FAMILIES, Report},
};

const WIDTH: usize = 910;
const LABELS: usize = 380;
const BAR: usize = 9;
/// The ratio at which a bar is cut off.
const RATIO_MAX: f64 = 2.5;

/// The summary as a picture: what each family costs, best row each, with the best haproxy as 1.
pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let scale = (WIDTH - LABELS - 70) as f64 / RATIO_MAX;
    let x = |ratio: f64| LABELS as f64 + ratio.min(RATIO_MAX) * scale;
    let mut y = 62;
    for table in &report.tables {
        let (Some(haproxy), Some(_)) = (table.best("haproxy"), table.best("tinylb")) else {
            continue;
        };
        let top = y;
        for (place, family) in FAMILIES.iter().enumerate() {
            let best = table.best(family).and_then(|row| table.ratio(row));
            let Some(ratio) = best else { continue };
            let end = x(ratio);
            let more = if ratio > RATIO_MAX { " →" } else { "" };
            let _ = writeln!(
                body,
                "<rect class=\"f{place}\" x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\"/>\
                 <text class=\"n\" x=\"{:.1}\" y=\"{}\">{ratio:.2}{more}</text>",
                end - LABELS as f64,
                end + 4.0,
                y + BAR - 1,
            );
            y += BAR + 2;
        }
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <text class=\"n\" x=\"{}\" y=\"{}\" text-anchor=\"end\">haproxy: {} {}</text>",
            LABELS - 10,
            top + 14,
            table.title,
            LABELS - 10,
            top + 28,
            round(haproxy.median()),
            haproxy.first().map_or("", |(unit, _)| unit),
        );
        y = y.max(top + 34) + 12;
    }
    let mut legend = String::new();
    let mut left = LABELS;
    for (place, family) in FAMILIES.iter().enumerate() {
        let _ = writeln!(
            legend,
            "<rect class=\"f{place}\" x=\"{left}\" y=\"34\" width=\"9\" height=\"9\"/>\
             <text x=\"{}\" y=\"43\">{family}</text>",
            left + 13,
        );
        left += 26 + 7 * family.len();
    }
    let one = x(1.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>text{{fill:#24292f}}.n{{font-size:10px;fill:#656d76}}.f0{{fill:#0a7d4f}}\
         .f1{{fill:#4a7fc1}}.f2{{fill:#9aa5b1}}.f3{{fill:#c58fc9}}.f4{{fill:#d9a441}}\
         .f5{{fill:#b9605a}}\
         line{{stroke:#8c959f;stroke-dasharray:3 3}}\
         @media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.n{{fill:#9198a1}}\
         .f0{{fill:#2ea97a}}}}</style>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">What it costs, as a ratio to the best haproxy \
         (less is better)</text>\n\
         {legend}<line x1=\"{one:.1}\" y1=\"52\" x2=\"{one:.1}\" y2=\"{y}\"/>\n{body}\
         <text class=\"n\" x=\"10\" y=\"{}\">{}</text>\n</svg>\n",
        y + 16,
        report.circumstances(),
        height = y + 26,
    )
}
