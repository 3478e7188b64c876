//! A bar for each system, as an SVG that reads on light and on dark.

use std::fmt::Write as _;

use crate::{results::Summary, text};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 190.0;
const VALUES: f64 = 150.0;
const ROW: f64 = 30.0;
const HEAD: f64 = 34.0;
/// A limit that is far away is drawn no longer than so many times the longest bar of a broker.
const LIMIT_MAX: f64 = 1.5;

const STYLE: &str = "\
text{font:14px system-ui,sans-serif;fill:#1f2328}\
.head{font-weight:600}\
.ours{fill:#0969da}\
.peer{fill:#8c959f}\
.limit{fill:none;stroke:#8c959f;stroke-dasharray:4 3}\
.span{stroke:#1f2328}\
@media(prefers-color-scheme:dark){\
text{fill:#e6edf3}\
.ours{fill:#4493f8}\
.peer{fill:#6e7681}\
.limit{stroke:#8b949e}\
.span{stroke:#e6edf3}}";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Peer,
    Limit,
}

#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) label: &'static str,
    pub(crate) kind: Kind,
    pub(crate) summary: Summary,
}

pub(crate) fn draw(title: &str, bars: &[Bar]) -> String {
    let brokers = bars.iter().filter(|bar| bar.kind != Kind::Limit);
    let longest = brokers.map(|bar| bar.summary.most).fold(0.0, f64::max);
    let all = bars.iter().map(|bar| bar.summary.most).fold(0.0, f64::max);
    let whole = all.min(longest * LIMIT_MAX).max(f64::MIN_POSITIVE);
    let length = |value: f64| (value.min(whole) / whole * (WIDTH - LABELS - VALUES)).max(1.0);
    let height = HEAD + ROW * bars.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <text class=\"head\" x=\"8\" y=\"20\">{title}</text>\n",
        title = escape(title),
    );
    for (index, bar) in bars.iter().enumerate() {
        row(&mut svg, bar, HEAD + ROW * index as f64, whole, length);
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, bar: &Bar, top: f64, whole: f64, length: impl Fn(f64) -> f64) {
    let class = match bar.kind {
        Kind::Ours => "ours",
        Kind::Peer => "peer",
        Kind::Limit => "limit",
    };
    let Summary {
        median,
        least,
        most,
    } = bar.summary;
    let (bar_top, middle, base) = (top + 5.0, top + 14.0, top + 19.0);
    let (long, from, to) = (
        length(median),
        LABELS + length(least),
        LABELS + length(most),
    );
    let farther = if median > whole { " (farther)" } else { "" };
    let _ = write!(
        svg,
        "<text x=\"{label_x}\" y=\"{base}\" text-anchor=\"end\">{label}</text>\n\
         <rect class=\"{class}\" x=\"{LABELS}\" y=\"{bar_top}\" width=\"{long:.1}\" height=\"18\"/>\n",
        label_x = LABELS - 8.0,
        label = escape(bar.label),
    );
    if most > least {
        let _ = writeln!(
            svg,
            "<line class=\"span\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>"
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{base}\">{value}{farther}</text>",
        x = LABELS + long.max(to - LABELS) + 8.0,
        value = text::figure(median),
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
