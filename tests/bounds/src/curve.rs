//! Draws memory and disk over time, as a picture that needs nothing but itself.

use std::fmt::Write as _;

use crate::{check::MB, steady::Sample};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
/// Lines across.
const LINES: u64 = 5;
/// Points of a line at most: more cannot be seen.
const POINTS: usize = 430;

type Of = fn(&Sample) -> u64;

const CURVES: [(&str, &str, Of); 4] = [
    ("disk", "#b35806", |sample| sample.disk),
    ("resident", "#2166ac", |sample| sample.resident),
    ("resident, anonymous", "#67a9cf", |sample| sample.own),
    ("disk of the index", "#f1a340", |sample| sample.index),
];

#[expect(clippy::cast_precision_loss, reason = "places in a picture")]
pub(crate) fn draw(samples: &[Sample]) -> String {
    let longest = samples.last().map_or(1.0, |sample| sample.seconds.max(1.0));
    let highest = samples.iter().map(|s| s.disk.max(s.resident)).max();
    let step = (highest.unwrap_or(0) / MB / LINES / 10 + 1) * 10;
    let top = (step * LINES) as f64;
    let x = |seconds: f64| LEFT + seconds / longest * (WIDTH - LEFT - RIGHT);
    let y = |megabytes: f64| HEIGHT - BOTTOM - megabytes / top * (HEIGHT - TOP - BOTTOM);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut add = |line: String| {
        // A string takes everything.
        let _ = writeln!(picture, "{line}");
    };
    for line in 0..=LINES {
        let (value, at) = (line * step, y((line * step) as f64));
        add(format!(
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        ));
    }
    for part in 0..=6 {
        let seconds = longest * f64::from(part) / 6.0;
        add(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0}</text>",
            x(seconds),
            HEIGHT - 20.0,
            seconds / 60.0
        ));
    }
    add(format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">minutes</text><text x=\"8\" y=\"20\">MB</text>",
        WIDTH / 2.0,
        HEIGHT - 4.0
    ));
    let every = samples.len().div_ceil(POINTS).max(1);
    for (number, (name, color, of)) in (0_u32..).zip(CURVES) {
        let mut path = String::new();
        // The highest of neighbours, so that no peak is left out.
        for part in samples.chunks(every) {
            let megabytes = part.iter().map(of).max().unwrap_or(0) as f64 / MB as f64;
            let verb = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{:.1} {:.1}", x(part[0].seconds), y(megabytes));
        }
        add(format!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <text x=\"{}\" y=\"20\" fill=\"{color}\">{name}</text>",
            LEFT + 190.0 * f64::from(number)
        ));
    }
    picture.push_str("</svg>\n");
    picture
}
