//! Tables for people: aligned columns, two spaces apart, never truncated.

/// Rows under a heading. Every row has as many cells as the heading.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.rows[0].len());
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let line_start = out.len();
            for (cell, width) in row.iter().zip(&widths) {
                out.push_str(cell);
                out.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            out.truncate(line_start + out[line_start..].trim_end().len());
            out.push('\n');
        }
        out
    }
}

/// Values come from outside and must neither break the line nor control the terminal.
fn printable(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_without_blanks() {
        let mut table = Table::new(["NAME", "ENABLED", "URL"]);
        table.row(vec!["ops".into(), "yes".into(), "https://example.com/a".into()]);
        table.row(vec!["größer".into(), "no".into(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME    ENABLED  URL\nops     yes      https://example.com/a\ngrößer  no       -\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(["ERROR"]);
        assert!(table.is_empty());
        table.row(vec!["a\nb\u{1b}[31m".into()]);
        assert_eq!(table.render(), "ERROR\na b [31m\n");
        assert!(!table.is_empty());
    }
}
