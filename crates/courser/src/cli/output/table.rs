//! Tables for people: a line of titles, no frames, so that they can be piped and cut.

use std::fmt;

use comfy_table::{CellAlignment, presets};

use super::printable;

/// Rows under titles.
pub(in crate::cli) struct Table(comfy_table::Table);

impl Table {
    /// A title that starts with `>` has its column to the right, for figures.
    pub(in crate::cli) fn new(titles: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(titles.iter().map(|title| title.trim_start_matches('>')));
        for (index, title) in titles.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if title.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self(table)
    }

    pub(in crate::cli) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // What publishers and consumers wrote is among it.
        let cells = cells.into_iter();
        self.0
            .add_row(cells.map(|cell| printable(&cell).into_owned()));
    }

    /// Two columns without titles: what it is, and its value.
    pub(in crate::cli) fn facts(facts: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        for (name, value) in facts {
            table.add_row([name.to_owned(), value]);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.trim_fmt())
    }
}
