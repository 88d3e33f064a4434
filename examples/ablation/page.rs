//! A page that has tables of this program in it, between two comments: `<!-- table: NAME -->` and `<!-- end -->`.

use crate::files;
use anyhow::{Context, Result, bail};
use std::path::Path;

const BEGIN: &str = "<!-- table: ";
const END: &str = "<!-- end -->";

/// Refuses a page that could not be filled with tables of these names, before any work goes into it.
pub(crate) fn check(path: &Path, names: &[String]) -> Result<()> {
    let tables: Vec<_> = names.iter().map(|name| (name.clone(), String::new())).collect();
    filled(&read(path)?, &tables).with_context(|| path.display().to_string())?;
    files::try_out(path)
}

/// Writes the tables into the page, in place of what stands there.
///
/// # Errors
/// A name that no table has, or a beginning without an end; then nothing has changed.
pub(crate) fn fill(path: &Path, tables: &[(String, String)]) -> Result<()> {
    let filled = filled(&read(path)?, tables).with_context(|| path.display().to_string())?;
    files::write(path, filled.as_bytes())
}

fn read(path: &Path) -> Result<String> {
    String::from_utf8(files::read(path)?).with_context(|| format!("cannot read {}", path.display()))
}

fn filled(text: &str, tables: &[(String, String)]) -> Result<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, from_name)) = rest.split_once(BEGIN) {
        let named =
            from_name.split_once(" -->").and_then(|(name, after)| Some((name, after.split_once(END)?.1)));
        let Some((name, after)) = named else { bail!("a table has no end") };
        let Some((_, table)) = tables.iter().find(|table| table.0 == name) else {
            bail!("there is no table {name}")
        };
        filled.push_str(&format!("{before}{BEGIN}{name} -->\n\n{table}\n{END}"));
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn tables_take_their_places() {
        let tables = [("a".to_owned(), "| 1 |".to_owned()), ("b".to_owned(), "| 2 |".to_owned())];
        let page = "x\n<!-- table: b -->old<!-- end -->\ny <!-- table: a --><!-- end --> z";
        let once = filled(page, &tables).unwrap();
        assert_eq!(
            once,
            "x\n<!-- table: b -->\n\n| 2 |\n<!-- end -->\ny <!-- table: a -->\n\n| 1 |\n<!-- end --> z"
        );
        assert_eq!(filled(&once, &tables).unwrap(), once);
        assert!(
            filled("<!-- table: c --><!-- end -->", &tables).unwrap_err().to_string().contains("no table c")
        );
        assert!(filled("<!-- table: a -->", &tables).is_err());
    }
}
